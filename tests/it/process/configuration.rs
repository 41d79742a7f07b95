//! Where settings come from, what is said of wrong ones, and what is done with them at the end.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    http::{Method, StatusCode, Uri},
};
use serde_json::Value;
use tokio::net::TcpListener;

use super::harness::{Place, Process, call, output, write};

/// `lameduck config …` in a place, with nothing in its environment.
async fn config(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lameduck"));
    command.arg("config").args(arguments).env_clear();
    command
        .envs(variables.iter().copied())
        .current_dir(place.path("."));
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

/// A file in a place; its path.
fn file(place: &Place, name: &str, text: &str) -> String {
    let path = place.path(name);
    write(&path, text);
    path.to_str().unwrap().to_owned()
}

/// Somebody who can be told to unplug, and what they were told.
async fn broker() -> (Arc<Mutex<Vec<String>>>, SocketAddr) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let notes = asked.clone();
    let router = Router::new().fallback(async move |method: Method, uri: Uri| {
        notes.lock().unwrap().push(format!("{method} {uri}"));
        StatusCode::NO_CONTENT
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (asked, address)
}

fn entry<'a>(shown: &'a Value, section: &str, name: &str) -> (&'a str, &'a str) {
    let entries = shown[section].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["name"] == name).unwrap();
    let text = |key: &str| entry[key].as_str().unwrap();
    (text("value"), text("source"))
}

#[tokio::test]
async fn flags_win_over_variables_over_the_file_over_defaults() {
    let place = Place::new("");
    let file = file(
        &place,
        "lameduck.toml",
        "exec = 'cat'\nworkers = 2\nmax-attempts = 2\ngrace = '20s'\n",
    );

    let (status, said) = config(
        &place,
        &["show", "--json", "--config", &file, "--workers", "4"],
        &[("LAMEDUCK_WORKERS", "3"), ("LAMEDUCK_MAX_ATTEMPTS", "3")],
    )
    .await;

    assert_eq!(status, 0, "{said}");
    let shown: Value = serde_json::from_str(&said).unwrap();
    let queue = |name| entry(&shown, "queues.default", name);
    assert_eq!(queue("workers"), ("4", "flag --workers"));
    assert_eq!(queue("max-attempts"), ("3", "env LAMEDUCK_MAX_ATTEMPTS"));
    assert_eq!(queue("timeout"), ("10m", "default"));
    let place = format!("{file}:4");
    assert_eq!(entry(&shown, "process", "grace"), ("20s", &*place));
    assert_eq!(entry(&shown, "process", "retain-dead"), ("30d", "default"));
}

#[tokio::test]
async fn what_is_shown_holds_no_secret() {
    let place = Place::new("");
    let secrets = file(
        &place,
        "secrets",
        "whsec_c3dvcmRmaXNoc3dvcmRmaXNoc3dvcmRmaXNo\n",
    );
    let text = format!("http = 'http://me:swordfish@resize/'\nhttp-secrets = '{secrets}'\n");
    let file = file(&place, "lameduck.toml", &text);

    for arguments in [vec!["show", "--config", &file], vec!["check", &file]] {
        let (status, said) = config(&place, &arguments, &[]).await;

        assert_eq!(status, 0, "{said}");
        assert!(said.contains("resize"), "{said}");
        for secret in [
            "swordfish",
            "whsec_",
            "c3dvcmRmaXNoc3dvcmRmaXNoc3dvcmRmaXNo",
        ] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}

#[tokio::test]
async fn a_good_file_is_told_in_short_with_what_is_doubtful() {
    let place = Place::new("");
    let text = "timeout = '1m'\n[queues.mail]\nexec = ['sh', '-c', 'cat -n; exit 0']\n[queues.resize]\nhttp = 'http://resize/'\nworkers = 1\n";
    let file = file(&place, "lameduck.toml", text);

    let (status, said) = config(&place, &["check", &file], &[]).await;

    assert_eq!(status, 0, "{said}");
    for words in [
        "2 queues",
        "queue 'mail': 20 workers, exec sh -c 'cat -n; exit 0'",
        "queue 'resize': 1 worker, http resize",
        "line 1, column 11: timeout = 1m of queue 'mail' is 35s longer",
    ] {
        assert!(said.contains(words), "'{words}' is missing: {said}");
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let place = Place::new("");
    let text = "workres = 3\ngrace = 'soon'\ntls-cert = 'a.pem'\n[queues.mail]\nexec = 'cat'\nhttp = 'http://a/'\n[queues.void]\n";
    let file = file(&place, "lameduck.toml", text);

    let (status, said) = config(&place, &["check", &file], &[]).await;

    assert_eq!(status, 2, "{said}");
    for words in [
        "line 1, column 1: 'workres' is no setting of the configuration file; did you mean 'workers'?",
        "line 2, column 9: grace: it is not a duration",
        "line 3, column 12: 'tls-key' is missing",
        "line 6, column 8: queue 'mail' has two handlers",
        "line 7, column 1: queue 'void' has no handler",
    ] {
        assert!(said.contains(words), "'{words}' is missing: {said}");
    }
}

#[tokio::test]
async fn who_listens_to_others_says_who_may_use_the_api() {
    let open = ["--listen", "0.0.0.0:0"];
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lameduck"));
    command
        .args(["serve", "--exec", "cat"])
        .args(open)
        .env_clear();
    command.stderr(std::process::Stdio::piped());

    let (status, said) = output(command).await;

    assert_eq!(status, Some(2), "{said}");
    for way in ["--tokens", "LAMEDUCK_TOKENS", "--allow-anonymous"] {
        assert!(said.contains(way), "{said}");
    }
}

#[tokio::test]
async fn every_queue_has_its_own_handler() {
    let place = Place::new("");
    let text =
        "[queues.loud]\nexec = ['tr', 'a-z', 'A-Z']\n[queues.still]\nexec = 'cat'\nworkers = 1\n";
    let file = file(&place, "lameduck.toml", text);
    let process = Process::start(place.command(&["--config", &file])).await;

    for (queue, result) in [("loud", "DUCK"), ("still", "duck")] {
        let path = format!("/v1/queues/{queue}/jobs");
        let answer = call(process.api, "POST", &path, &[], "duck").await.unwrap();

        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(process.completed(&id).await["result"], result);
    }
    let none = call(process.api, "POST", "/v1/queues/default/jobs", &[], "duck").await;
    none.unwrap().problem(404);
    process.terminate().await.assert_clean();
}

#[tokio::test]
async fn a_queue_can_have_an_endpoint_and_another_one_a_command() {
    let place = Place::new("");
    let (asked, endpoint) = broker().await;
    let secrets = file(
        &place,
        "secrets",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
    );
    let text = format!(
        "[queues.default]\nexec = 'cat'\n\
         [queues.mail]\nhttp = 'http://{endpoint}/jobs'\nhttp-secrets = '{secrets}'\n"
    );
    let file = file(&place, "lameduck.toml", &text);
    let process = Process::start(place.command(&["--config", &file])).await;

    let answer = call(process.api, "POST", "/v1/queues/mail/jobs", &[], "duck").await;

    let id = answer.unwrap().json()["id"].as_str().unwrap().to_owned();
    process.completed(&id).await;
    assert_eq!(*asked.lock().unwrap(), ["POST /jobs"]);
    process.terminate().await.assert_clean();
}

#[tokio::test]
async fn the_report_is_written_into_a_file() {
    let place = Place::new("");
    let file = place.path("report.json");
    let process = place.start(&["--report", file.to_str().unwrap()]).await;

    let exit = process.terminate().await;

    let written: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(written["drain_id"], exit.assert_clean()["drain_id"]);
}

#[tokio::test]
async fn hooks_run_the_last_one_first_and_leave_nothing() {
    let place = Place::new("");
    let folder = place.path("scratch");
    fs::create_dir_all(folder.join("deep")).unwrap();
    let (asked, broker) = broker().await;
    let path = |name: &str| place.path(name).display().to_string();
    let text = format!(
        "exec = 'cat'\n\
         [[teardown-hook]]\nname = 'scratch'\nremove = '{}'\n\
         [[teardown-hook]]\nname = 'gone already'\nremove = '{}'\n\
         [[teardown-hook]]\nname = 'look'\nrun = ['sh', '-c', 'test -d \"$PLACE/scratch\" && echo here > \"$PLACE/seen\"']\n\
         [[teardown-hook]]\nname = 'broker'\nurl = 'http://{broker}/unplug'\n",
        path("scratch"),
        path("nothing"),
    );
    let file = file(&place, "lameduck.toml", &text);
    let process = Process::start(place.command(&["--config", &file])).await;

    let exit = process.terminate().await;

    let hooks = exit.assert_clean()["hooks"].as_array().unwrap().clone();
    let names: Vec<&str> = hooks
        .iter()
        .map(|hook| hook["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["broker", "look", "gone already", "scratch"]);
    assert_eq!(fs::read_to_string(place.path("seen")).unwrap(), "here\n");
    assert!(!folder.exists());
    assert_eq!(*asked.lock().unwrap(), ["POST /unplug"]);
}

#[tokio::test]
async fn a_hook_removes_neither_what_a_link_points_to_nor_the_queue() {
    let place = Place::new("");
    let path = |name: &str| place.path(name).display().to_string();
    let precious = place.path("keep").join("precious");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "x").unwrap();
    fs::create_dir_all(place.path("parent")).unwrap();
    std::os::unix::fs::symlink(place.path("keep"), place.path("parent/link")).unwrap();
    // The queue's folder as the hook calls it comes about only after the configuration was checked.
    let text = format!(
        "exec = 'cat'\n\
         [[teardown-hook]]\nname = 'queue'\nremove = '{}'\n\
         [[teardown-hook]]\nname = 'link'\nremove = '{}/'\n",
        path("later/data"),
        path("parent/link"),
    );
    let file = file(&place, "lameduck.toml", &text);
    let process = Process::start(place.command(&["--config", &file])).await;
    let id = process.post("x", &[("lameduck-delay", "1h")]).await.json()["id"].clone();
    std::os::unix::fs::symlink(place.path(""), place.path("later")).unwrap();

    let exit = process.terminate().await;

    let hooks = exit.report()["hooks"].clone();
    assert_eq!(hooks[0]["error"], serde_json::Value::Null, "{hooks:#}");
    assert!(precious.exists(), "it was only pointed to");
    assert!(!place.path("parent/link").exists());
    let refused = hooks[1]["error"].as_str().unwrap();
    assert!(refused.contains("the queue's data is in it"), "{refused}");
    let process = place.start(&[]).await;
    let job = process
        .get(&format!("/v1/jobs/{}", id.as_str().unwrap()))
        .await;
    assert_eq!(job.json()["state"], "scheduled");
}

#[tokio::test]
async fn a_hook_that_fails_or_hangs_is_reported_and_stops_no_other() {
    let place = Place::new("");
    let text = "exec = 'cat'\n\
         [[teardown-hook]]\nname = 'first'\nrun = ['sh', '-c', 'echo ran > \"$PLACE/seen\"']\n\
         [[teardown-hook]]\nname = 'nobody there'\nurl = 'http://127.0.0.1:1/'\n\
         [[teardown-hook]]\nname = 'fails'\nrun = ['sh', '-c', 'echo no broker; exit 3']\n\
         [[teardown-hook]]\nname = 'hangs'\ntimeout = '800ms'\nrun = ['sh', '-c', 'echo waiting; sleep 1000 & sleep 1000']\n";
    let file = file(&place, "lameduck.toml", text);
    let process = Process::start(place.command(&["--config", &file])).await;

    let exit = process.terminate().await;

    assert_eq!(exit.status.code(), Some(1), "{}", exit.text());
    let hooks = exit.report()["hooks"].as_array().unwrap().clone();
    let error = |name: &str| {
        let hook = hooks.iter().find(|hook| hook["name"] == name).unwrap();
        hook["error"].as_str().unwrap_or_default().to_owned()
    };
    assert!(
        error("hangs").contains("killed") && error("hangs").contains("waiting"),
        "{hooks:?}"
    );
    assert!(
        error("fails").contains("exit status: 3") && error("fails").contains("no broker"),
        "{hooks:?}"
    );
    assert!(error("nobody there").contains("127.0.0.1:1"), "{hooks:?}");
    assert_eq!(error("first"), "");
    assert!(place.path("seen").exists());
    assert_eq!(place.living(), [], "the group of the one that hung is gone");
}
