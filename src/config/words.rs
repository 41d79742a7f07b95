//! Tests of the messages about values that can't be read: a table of all kinds, and a check of every setting.

use super::{Document, HookSettings, ProcessSettings, QueueSettings, Section};

/// Lines of a file, and the message that each must lead to.
const SAID: [(&str, &str); 47] = [
    (
        "grace = ''",
        "grace: it is empty; write it as in 30s, 1h30m, 30d, 500ms",
    ),
    (
        "grace = '30'",
        "grace: it is a number without a unit; write it as in 30s",
    ),
    (
        "grace = 30",
        "grace: this is of type integer; write a string in quotes",
    ),
    (
        "grace = '30 parsecs'",
        "grace: it is not a duration; write it as in 30s",
    ),
    ("grace = '-5s'", "grace: it is negative; write it as in 30s"),
    (
        "grace = '1 month'",
        "grace: years and months have no length of their own; write days, as in 30d",
    ),
    ("grace = '9999999d'", "grace: it is longer than 36500d"),
    (
        "max-body = ''",
        "max-body: it is empty; write it as in 1048576, 64MiB, 10GiB",
    ),
    (
        "max-body = -5",
        "max-body: it is not a size; write it as in 1048576",
    ),
    (
        "max-body = 1.5",
        "max-body: this is of type float; write a number of bytes, or a size in quotes",
    ),
    (
        "max-body = '1.5GiB'",
        "max-body: it has a fraction; take a smaller unit",
    ),
    (
        "max-body = '1 parsec'",
        "max-body: it has no unit that is known; write it as in 1048576",
    ),
    (
        "max-body = '99999999TiB'",
        "max-body: it is larger than any disk",
    ),
    (
        "max-body = '99999999999999999999999'",
        "max-body: it is larger than any disk",
    ),
    (
        "lame-duck-share = 7.0",
        "lame-duck-share: it is not a number from 0 to 1, as in 0.5",
    ),
    (
        "lame-duck-share = nan",
        "lame-duck-share: it is not a number from 0 to 1, as in 0.5",
    ),
    ("workers = 0", "workers: it is 0; write 1 or more"),
    (
        "workers = -3",
        "workers: it is not a whole number; write 1 or more",
    ),
    (
        "workers = '3'",
        "workers: this is of type string; write a number without quotes",
    ),
    ("workers = 99999999999999999999", "workers: it is too large"),
    (
        "max-attempts = 99999999999",
        "max-attempts: it is too large; there are 4294967295 at the most",
    ),
    (
        "max-crashes = -1",
        "max-crashes: it is not a whole number; write 0 or more",
    ),
    (
        "final-scrape = 'yes'",
        "final-scrape: this is of type string; write true or false",
    ),
    (
        "readiness = 'later'",
        "readiness: it is not a readiness policy; write immediate, after-removal or auto",
    ),
    (
        "order = 'fifo'",
        "order: it is not an order; write priority or run-at",
    ),
    (
        "exec = ''",
        "exec: the command is empty; give a program and its arguments",
    ),
    ("exec = \"sh -c 'cat\"", "exec: a quote in it is not closed"),
    (
        "exec = 'API_TOKEN=S3cret worker'",
        "exec: it begins by setting a variable, which only a shell understands; write env NAME=value PROGRAM",
    ),
    (
        "exec = 'postgres://me:S3cret@db/jobs'",
        "exec: it begins with a URL, and a program is wanted here",
    ),
    (
        "exec = ['sh', 3]",
        "exec: every word of the command is a string in quotes",
    ),
    (
        "http = 'resize/jobs'",
        "http: it is not a URL with http:// or https:// in front; write the whole of it",
    ),
    (
        "http = 'ftp://resize'",
        "http: it begins neither with http:// nor with https://",
    ),
    (
        "http = 'http://'",
        "http: it has no host; write the whole of it, as in http://host:8000/path",
    ),
    (
        "http = 'http://a:99999/'",
        "http: its port is not a number from 0 to 65535",
    ),
    (
        "http = 'http://a b/'",
        "http: its host is neither a name nor an address",
    ),
    (
        "listen = '8080'",
        "listen: it is a port without a host; write HOST:PORT, as in 127.0.0.1:8080",
    ),
    ("listen = ':8080'", "listen: it is a port without a host"),
    (
        "listen = 'localhost'",
        "listen: it has no port; write HOST:PORT",
    ),
    (
        "listen = 'localhost:99999'",
        "listen: its port is not a number from 0 to 65535",
    ),
    (
        "listen = '*:8080'",
        "listen: '*' is not a host; write HOST:PORT",
    ),
    (
        "listen = '::1:8080'",
        "listen: an IPv6 address stands in brackets, as in [::1]:8080",
    ),
    (
        "listen = '[::x]:8080'",
        "listen: what stands in brackets is not an IPv6 address",
    ),
    (
        "admin = 'http://localhost:9090'",
        "admin: it is a URL, and an address has no scheme and no path",
    ),
    ("admin = 'unix:'", "admin: 'unix:' has no path behind it"),
    (
        "data = 'postgres://db/jobs'",
        "data: it is a URL, and a path is wanted here",
    ),
    (
        "tokens = \"\"\"\none\ntwo\"\"\"",
        "tokens: it has line breaks: give the path of a file",
    ),
    (
        "[[teardown-hook]]\nname = 'x'\nmethod = 'a b'",
        "method: it is not an HTTP method, as in POST",
    ),
];

/// Terms from libraries that mean nothing to an operator.
const OF_A_LIBRARY: [&str; 7] = [
    "non-zero type",
    "builder error",
    "invalid digit",
    "cannot parse",
    "relative URL",
    "ParseIntError",
    "Utf8",
];

fn problems(text: &str) -> String {
    let (_, problems) = Document::read("a.toml", text);
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    said.join("\n")
}

#[test]
fn each_kind_of_mistake_is_named_with_its_setting_and_a_way_out() {
    for (text, words) in SAID {
        let said = problems(text);
        assert!(said.contains(words), "{text}: {said}");
        assert_eq!(said.lines().count(), 1, "{text}: {said}");
        for word in OF_A_LIBRARY {
            assert!(!said.contains(word), "{text}: {said}");
        }
    }
}

#[test]
fn no_setting_repeats_a_value_that_it_can_not_read() {
    let table = |title: &str, names: Vec<super::Setting>| {
        let names = names.into_iter().map(|setting| setting.name);
        names
            .map(|name| (title.to_owned(), name))
            .collect::<Vec<_>>()
    };
    let all = [
        table("", QueueSettings::settings()),
        table("", ProcessSettings::settings()),
        table("[[teardown-hook]]\n", HookSettings::settings()),
    ];
    for (title, name) in all.concat() {
        for value in [
            "'S3cret/pw ://'",
            "[3, 'S3cret']",
            "{ S3cret = 'S3cret' }",
            "S3cret",
            "postgres://me:S3cret/pw@db/jobs",
        ] {
            let said = problems(&format!("{title}{name} = {value}"));
            assert!(!said.contains("S3cret"), "{name} = {value}: {said}");
            let is_read = value.starts_with("'S3") && said.is_empty();
            assert!(is_read || !said.is_empty(), "{name} = {value} was taken");
            if value.starts_with(['[', '{']) {
                assert!(said.contains(&name), "{said}");
            }
        }
    }
}
