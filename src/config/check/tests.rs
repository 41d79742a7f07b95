//! Tests of impossible and doubtful configurations, and of the messages about them.

use std::time::Duration;

use super::{
    super::{Config, Document, Handler, Settings},
    *,
};

fn checked(text: &str) -> Result<Checked, Problems> {
    let (document, problems) = Document::read("a.toml", text);
    assert_eq!(problems, [], "{text}");
    check(&Given::of(Settings::default(), document))
}

fn config(text: &str) -> Config {
    checked(text).unwrap().config
}

#[test]
fn without_tables_there_is_one_queue_and_the_rest_by_default() {
    let config = config("exec = 'cat -n'\nworkers = 3\ngrace = '1m'");
    let [queue] = &config.queues[..] else {
        panic!()
    };
    assert_eq!(queue.name.as_str(), "default");
    assert!(matches!(&queue.handler, Handler::Exec(line) if line.0 == ["cat", "-n"]));
    assert_eq!(queue.values.workers.get(), 3);
    assert_eq!(queue.values.max_attempts.get(), 5);
    assert_eq!(config.drain.grace, Duration::from_secs(60));
    assert_eq!(config.drain.quiet, Duration::from_secs(2));
}

#[test]
fn a_queue_says_otherwise_or_takes_what_is_said_for_all() {
    let config = config(
        "exec = 'cat'\nworkers = 3\n[queues.mail]\nworkers = 7\n[queues.resize]\nhttp = 'http://resize/'",
    );
    let [mail, resize] = &config.queues[..] else {
        panic!()
    };
    assert_eq!(
        (mail.values.workers.get(), resize.values.workers.get()),
        (7, 3)
    );
    assert!(matches!(mail.handler, Handler::Exec(_)));
    assert!(matches!(resize.handler, Handler::Http { .. }), "not both");
}

#[test]
fn secrets_said_for_all_sign_for_every_queue_with_an_endpoint() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let path = file.path().display();
    let text =
        format!("http-secrets = '{path}'\n[queues.a]\nhttp = 'http://a/'\n[queues.b]\nexec = 'b'");
    let Checked { config, warnings } = checked(&text).unwrap();
    let Handler::Http { secrets, .. } = &config.queues[0].handler else {
        panic!()
    };
    assert_eq!(secrets.len(), 1);
    assert_eq!(warnings, []);
}

#[test]
fn what_is_impossible_is_refused_with_its_place_and_a_remedy() {
    for (text, words) in [
        (
            "exec = 'a'\ngrace = '0s'",
            "grace = 0s is too short for any drain",
        ),
        (
            "exec = 'a'\ntimeout = '0s'",
            "a run takes longer than nothing",
        ),
        ("exec = 'a'\ntimeout = '8d'", "may take 7d at most"),
        ("exec = 'a'\nmax-attempts = 1000", "there are 100 at most"),
        (
            "exec = 'a'\ndatabase-file = '/etc/of-nobody/url'",
            "a.toml, line 2, column 17: database-file: cannot read /etc/of-nobody/url",
        ),
        (
            "exec = 'a'\ndatabase-file = 'postgres-url'",
            "database-file: cannot read it: No such file or directory (os error 2). The setting takes the path of a file",
        ),
        (
            "exec = 'a'\ntls-cert = '/etc/of-nobody/crt'\ntls-key = '/etc/of-nobody/key'",
            "a.toml, line 2, column 12: tls-cert: cannot read /etc/of-nobody/crt",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'h'\nremove = '~/x/y'",
            "there is no shell to make something of '~'",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'h'\nrun = 'x'\ntimeout = '0s'",
            "lets it do nothing",
        ),
        (
            "exec = 'a'\nreplicas = 3",
            "a.toml, line 2, column 12: replicas = 3, and the queue is embedded",
        ),
        (
            "exec = 'a'\ndatabase = 'postgres://h/d'\ndatabase-file = 'b'",
            "a.toml, line 3, column 17: there is a database (a.toml:2) and a file",
        ),
        ("", "--exec"),
        ("", "LAMEDUCK_EXEC"),
        (
            "exec = 'a'\nhttp = 'http://b'",
            "a.toml, line 2, column 8: queue 'default' has two handlers",
        ),
        (
            "[queues.mail]\nworkers = 3",
            "line 1, column 1: queue 'mail' has no handler",
        ),
        (
            "exec = 'a'\ntls-key = 'k'",
            "line 2, column 11: 'tls-cert' is missing",
        ),
        (
            "exec = 'a'\nlisten = '127.0.0.1:1'\nadmin = '127.0.0.1:1'",
            "listen and admin are both",
        ),
        ("exec = 'a'\nlisten = '0.0.0.0:1'", "--tokens tokens"),
        ("exec = 'a'\nlisten = '0.0.0.0:1'", "allow-anonymous = true"),
        (
            "exec = 'a'\ntokens = '/etc/of-nobody/t'",
            "tokens: cannot read /etc/of-nobody/t",
        ),
        ("exec = 'a'\nmax-body = 0", "max-body = 0"),
        (
            "exec = 'a'\nbackoff-first = '1h'",
            "backoff-first = 1h is longer than backoff-max = 5m",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nrun = 'x'",
            "line 2, column 1: a teardown hook has no name",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'",
            "hook 'x' does exactly one thing",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nrun = 'y'\nremove = '/tmp/z'",
            "exactly one thing",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nurl = 'https://y'",
            "plain http",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '/'",
            "refused",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '/tmp'",
            "refused",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '.'",
            "refused",
        ),
        (
            "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '/a/b/../..'",
            "'..'",
        ),
        (
            "exec = 'a'\ndata = '/d/e/f'\n[[teardown-hook]]\nname = 'x'\nremove = '/d/e'",
            "the queue's data",
        ),
    ] {
        let said = checked(text).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(words), "{text}: {said}");
    }
}

#[test]
fn what_is_doubtful_is_said_with_by_how_much() {
    for (text, words) in [
        (
            "timeout = '40s'",
            "15s longer than a drain leaves to its jobs (25s",
        ),
        ("timeout = '40s'", "to 45s"),
        ("grace = '17s'", "is 500ms more than half of grace = 17s"),
        (
            "quiet = '20s'",
            "settle + quiet = 1s + 20s = 21s is 11.3s longer",
        ),
        ("margin = '4s'", "shortened to 3s"),
        (
            "max-disk = '1kB'",
            "max-disk = 1000 is less than one payload",
        ),
        ("http-secrets = 'SECRETS'", "http-secrets says nothing"),
        (
            "[[teardown-hook]]\nname = 'x'\nrun = 'y'\ntimeout = '5s'",
            "2s longer than what is kept",
        ),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "# old\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        )
        .unwrap();
        let text = text.replace("SECRETS", file.path().to_str().unwrap());
        let warnings = checked(&format!("exec = 'a'\n{text}")).unwrap().warnings;
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(said.join("\n").contains(words), "{text}: {said:?}");
    }
    assert_eq!(
        checked("exec = 'a'").unwrap().warnings,
        [],
        "the defaults fit"
    );
}

#[test]
fn a_secret_is_never_said() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "swordfish\n").unwrap();
    let path = file.path().display();
    let text = format!("http = 'http://a/'\nhttp-secrets = '{path}'");
    let said = checked(&text).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("line 1 is not a secret"), "{said}");
    assert!(!said.contains("swordfish"), "{said}");
    std::fs::write(file.path(), "postgres://me:swordfish/pw@db/jobs\n").unwrap();
    let said = checked(&format!("exec = 'a'\ndatabase-file = '{path}'"));
    let said = said.map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("has to be percent-encoded"), "{said}");
    assert!(!said.contains("swordfish"), "{said}");
}

#[test]
fn who_is_reached_from_this_machine_only() {
    for address in ["127.0.0.1:1", "[::1]:1", "unix:/a", "localhost:1"] {
        assert!(is_local(address), "{address}");
    }
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "jobs.example:1"] {
        assert!(!is_local(address), "{address}");
    }
}
