//! No value that can't be read is repeated, whichever setting it was given to, and by whom: it may be a password that was
//! put in the wrong place.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Stdio};

use tokio::process::Command;

use super::harness::{Place, write};

/// What must not come back, and what makes it unreadable for most settings.
const SECRET: &str = "S3cret";
const VALUES: [&str; 3] = [
    "S3cret/pw",
    "postgres://app:S3cret/pw@db/jobs",
    "://S3cret [ 'S3cret",
];

/// Commands that take settings, with what they need beside them.
const COMMANDS: [&[&str]; 6] = [
    &["serve"],
    &["config", "check"],
    &["config", "show"],
    &["migrate"],
    &["drains"],
    &["healthcheck"],
];

/// Settings of a command, by their flags; with the variables that it reads.
async fn settings(command: &[&str]) -> Vec<(String, Option<String>)> {
    let help = program(command, &["--help"], &[]).await.1;
    let mut settings = Vec::new();
    for line in help.lines().map(str::trim) {
        let words = line
            .split_once("--")
            .filter(|(front, _)| front.is_empty() || front.ends_with(", "));
        if let Some((_, flag)) = words {
            let end = flag.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
            let takes_a_value = flag.contains('<');
            if takes_a_value {
                settings.push((format!("--{}", &flag[..end.unwrap_or(flag.len())]), None));
            }
        }
        if let Some((_, variable)) = line.split_once("[env: ") {
            let end = variable.find([']', '=']).unwrap();
            if let Some((_, place)) = settings.last_mut() {
                *place = Some(variable[..end].to_owned());
            }
        }
    }
    settings
}

/// The exit status, and all that was written.
async fn program(
    command: &[&str],
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (i32, String) {
    let mut started = Command::new(env!("CARGO_BIN_EXE_lameduck"));
    started.args(command).args(arguments).env_clear();
    started.envs(variables.iter().copied());
    started
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null());
    // Whoever takes the value would serve.
    started.kill_on_drop(true);
    let bound = std::time::Duration::from_secs(30);
    let output = tokio::time::timeout(bound, started.output()).await;
    let output =
        output.unwrap_or_else(|_| panic!("{command:?} {arguments:?} {variables:?} goes on"));
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flag_and_no_variable_repeats_a_value_that_can_not_be_read() {
    let mut looked_at = 0;
    for command in COMMANDS {
        for (flag, variable) in settings(command).await {
            // Without a handler nothing serves. A directory or a file of that name would be made.
            if ["--data", "--report", "--remove"].contains(&&*flag) {
                continue;
            }
            for value in VALUES {
                // A program may have any name, and would be served. The other commands read settings in the same way.
                let is_read = flag == "--exec" && value == VALUES[0];
                if is_read || (command != ["serve"] && value != VALUES[1]) {
                    continue;
                }
                let by_flag = program(command, &[&format!("{flag}={value}")], &[]).await;
                let mut told = vec![by_flag];
                if let Some(variable) = &variable {
                    told.push(program(command, &[], &[(variable, value)]).await);
                }
                for (status, said) in told {
                    looked_at += 1;
                    assert!(!said.contains(SECRET), "{command:?} {flag} {value}: {said}");
                    assert!(!said.contains("panicked"), "{command:?} {flag}: {said}");
                    let is_shown = command == ["config", "show"] && status == 0;
                    assert!(
                        status != 0 || is_shown,
                        "{command:?} {flag} {value}: {said}"
                    );
                }
            }
        }
    }
    assert!(looked_at > 200, "the flags were not found: {looked_at}");
}

#[tokio::test]
async fn no_file_of_secrets_and_no_line_of_a_configuration_is_repeated() {
    let place = Place::new("");
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    for (name, text) in [
        ("url", "postgres://app:S3cret/pw@db/jobs\n"),
        ("short", "S3cret\n"),
        (
            "unquoted.toml",
            "exec = 'cat'\ndatabase = postgres://app:S3cret@db/jobs\n",
        ),
        (
            "quoted.toml",
            "exec = 'cat'\ndatabase = 'postgres://app:S3cret/pw@db/jobs'\n",
        ),
        (
            "open.toml",
            "exec = 'cat'\ndatabase = 'postgres://app:S3cret@db/jobs\n",
        ),
        ("command.toml", "exec = \"curl -u me:S3cret 'http://a\"\n"),
        (
            "hook.toml",
            "exec = 'cat'\n[[teardown-hook]]\nname = 'x'\nurl = 'https://me:S3cret@a/?S3cret'\n",
        ),
        (
            "table.toml",
            "exec = 'cat'\nworkers = { S3cret = 'S3cret' }\n",
        ),
    ] {
        write(&place.path(name), text);
    }
    let url = path("url");
    let mut said = vec![
        program(&["serve"], &["--exec=cat", "--database-file", &url], &[]).await,
        program(
            &["config", "check"],
            &["--exec=cat", "--database-file", &url],
            &[],
        )
        .await,
        program(&["migrate"], &["--database-file", &url], &[]).await,
        program(&["drains"], &["--database-file", &url], &[]).await,
        program(&["serve"], &["--exec=cat", "--tokens", &path("short")], &[]).await,
        program(
            &["serve"],
            &["--http=http://a/", "--http-secrets", &url],
            &[],
        )
        .await,
        program(
            &["serve"],
            &["--exec=cat", "--tls-cert", &url, "--tls-key", &url],
            &[],
        )
        .await,
        program(&["config", "check"], &[&url], &[]).await,
    ];
    for name in ["unquoted", "quoted", "open", "command", "hook", "table"] {
        let file = path(&format!("{name}.toml"));
        said.push(program(&["config", "check"], &[&file], &[]).await);
        said.push(program(&["serve"], &["--config", &file], &[]).await);
    }
    for (status, said) in said {
        assert!(!said.contains(SECRET), "{said}");
        assert_ne!(status, 0, "{said}");
    }
}

#[tokio::test]
async fn a_value_that_is_not_utf_8_is_told_by_the_name_of_its_setting() {
    let value = OsStr::from_bytes(b"S3cret\xff");
    for (arguments, variable, name) in [
        (vec!["--database".as_ref(), value], None, "--database"),
        (vec![], Some("LAMEDUCK_WORKERS"), "LAMEDUCK_WORKERS"),
    ] {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        serve.arg("serve").args(arguments).env_clear();
        serve.envs(variable.map(|name| (name, value)));

        let output = serve.output().await.unwrap();

        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("{name}: it is not UTF-8")), "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[tokio::test]
async fn what_is_shown_of_a_good_configuration_holds_no_secret() {
    let place = Place::new("");
    let file = place.path("lameduck.toml");
    write(
        &file,
        "database = 'postgres://app:S3cret@a:5432,b/jobs?application_name=x'\n\
         [queues.mail]\nhttp = 'https://S3cret@mail/?key=S3cret'\n\
         [queues.call]\nexec = ['sh', '-c', 'curl -H \"Authorization: Bearer S3cret\" http://me:S3cret@a/']\n\
         [queues.work]\nexec = 'worker --token S3cret --mode fast'\n\
         [[teardown-hook]]\nname = 'x'\nrun = 'env API_TOKEN=S3cret unplug'\n",
    );
    let file = file.to_str().unwrap();
    for arguments in [
        ["check", file].as_slice(),
        &["show", "--config", file],
        &["show", "--json", "--config", file],
    ] {
        let (status, said) = program(&["config"], arguments, &[]).await;

        assert_eq!(status, 0, "{said}");
        assert!(
            said.contains("worker --token") && said.contains("--mode fast"),
            "{said}"
        );
        assert!(!said.contains(SECRET), "{said}");
    }
}
