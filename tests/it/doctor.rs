//! `lameduck doctor`: the real program against the API server's double, in a pod and by a kubeconfig.
//!
//! What each check finds is tested beside the checks; here is what is read, from where, and what is said when
//! that may not be.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::fake_api::{FakeApi, Fault, NAMESPACE, On, Resource, Verb};

/// What `helm template` makes of the chart; `tests/deploy/run` checks that it still does.
const CHART: &str = include_str!("doctor/chart.json");
const POD: &str = "lameduck-0";
const SET: &str = "statefulset/lameduck";

/// A run of the program.
struct Doctor {
    dir: TempDir,
    command: Command,
}

struct Said {
    status: i32,
    out: String,
    err: String,
    took: Duration,
}

/// A cluster in which the chart is installed.
async fn cluster() -> FakeApi {
    let api = FakeApi::start().await;
    for object in chart() {
        let kind = Resource::ALL
            .into_iter()
            .find(|r| r.names().2 == object["kind"]);
        if let Some(kind) = kind {
            api.put(kind, object);
        }
    }
    let template = object("StatefulSet")["spec"]["template"].clone();
    let mut pod = crate::fake_api::pod(POD, "u0", "10.0.0.7");
    pod["metadata"]["labels"] = template["metadata"]["labels"].clone();
    pod["metadata"]["ownerReferences"] = owner("StatefulSet", "lameduck");
    pod["spec"] = template["spec"].clone();
    pod["spec"]["nodeName"] = json!("n1");
    api.put(Resource::Pods, pod);
    api.place("lameduck-abc", "lameduck", &[POD]);
    api.set_rules(role());
    api
}

fn chart() -> Vec<Value> {
    serde_json::from_str(CHART).expect("JSON")
}

fn object(kind: &str) -> Value {
    chart()
        .into_iter()
        .find(|object| object["kind"] == kind)
        .expect(kind)
}

fn role() -> Value {
    object("Role")["rules"].clone()
}

fn owner(kind: &str, name: &str) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "o", "controller": true}])
}

/// A Deployment of the chart's pods, three of them.
fn deployment() -> Value {
    let set = object("StatefulSet");
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": set["spec"]["selector"], "template": set["spec"]["template"]},
    })
}

// === impl Doctor ===

impl Doctor {
    fn new(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        let dir = TempDir::new().unwrap();
        command
            .arg("doctor")
            .args(args)
            .env_clear()
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self { dir, command }
    }

    /// In the chart's pod.
    fn in_pod(api: &FakeApi, args: &[&str]) -> Self {
        let mut doctor = Self::new(args);
        api.write_service_account(doctor.dir.path(), "a token");
        doctor
            .command
            .env("LAMEDUCK_KUBERNETES_API", api.url())
            .env("LAMEDUCK_SERVICE_ACCOUNT_DIR", doctor.dir.path())
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", POD);
        doctor
    }

    /// With a kubeconfig whose current context is this cluster's namespace.
    fn by_kubeconfig(api: &FakeApi, args: &[&str]) -> Self {
        let mut doctor = Self::new(args);
        let file = doctor.dir.path().join("kubeconfig");
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [
                {"name": "c", "cluster": {"server": api.url()}},
                {"name": "gone", "cluster": {"server": "http://127.0.0.1:1"}},
            ],
            "users": [{"name": "u", "user": {}}],
            "contexts": [
                {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}},
                {"name": "elsewhere", "context": {"cluster": "gone", "user": "u"}},
            ],
        });
        std::fs::write(&file, config.to_string()).unwrap();
        doctor.command.env("KUBECONFIG", file);
        doctor
    }

    async fn says(mut self) -> Said {
        let begin = Instant::now();
        let done = timeout(Duration::from_secs(40), self.command.output()).await;
        let done = done.expect("it ends").unwrap();
        Said {
            status: done.status.code().expect("no signal"),
            out: String::from_utf8(done.stdout).unwrap(),
            err: String::from_utf8(done.stderr).unwrap(),
            took: begin.elapsed(),
        }
    }
}

// === impl Said ===

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {} {}", self.out, self.err))
    }

    fn finding(&self, id: &str) -> Value {
        let findings = self.json()["findings"].as_array().expect("a list").clone();
        let found = findings.into_iter().find(|finding| finding["id"] == id);
        found.unwrap_or_else(|| panic!("no {id} in {}", self.out))
    }

    fn ids(&self, severity: &str) -> Vec<String> {
        let all = self.json()["findings"].as_array().expect("a list").clone();
        let such = all
            .into_iter()
            .filter(|finding| finding["severity"] == severity);
        such.map(|finding| finding["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn the_charts_own_objects_are_well() {
    let api = cluster().await;
    let said = Doctor::by_kubeconfig(&api, &[SET, "--json", "--longest-job", "10s"])
        .says()
        .await;
    let all = said.json()["findings"].as_array().unwrap().len();
    assert_eq!(said.ids("ok").len(), all, "{}", said.out);
    assert_eq!((said.status, &said.json()["verdict"]), (0, &json!("ok")));
    // The settings come from the ConfigMap, so that nothing is assumed.
    assert_eq!(said.json()["drain"]["assumed"], false);
    assert_eq!(said.json()["drain"]["told"], 20.0);
    assert_eq!(said.json()["container"], "lameduck");
}

#[tokio::test]
async fn by_a_kubeconfig_it_asks_what_the_pods_account_may_and_not_what_it_may_itself() {
    let api = cluster().await;
    let mut rules = role();
    rules.as_array_mut().unwrap().remove(1);
    api.set_rules(rules);
    let said = Doctor::by_kubeconfig(&api, &[SET, "--json"]).says().await;
    assert_eq!(said.status, 1, "{}", said.out);
    assert_eq!(
        said.ids("warning"),
        ["permission-missing", "permission-missing"]
    );
    assert!(
        said.finding("permission-missing")["do"]
            .as_str()
            .unwrap()
            .contains("endpointslices")
    );
    let users = api.reviewed().into_iter().map(|spec| spec["user"].clone());
    assert!(
        users
            .into_iter()
            .all(|user| user == "system:serviceaccount:shop:lameduck")
    );
    // The chart's Role names the Pod.
    assert!(
        api.reviewed()
            .iter()
            .any(|spec| spec["resourceAttributes"]["name"] == POD)
    );
}

/// Whoever looks after one namespace may read its Roles, and no reviews.
#[tokio::test]
async fn where_nobody_reviews_the_roles_say_what_is_granted_and_not_what_is_missing() {
    let api = cluster().await;
    api.fail(
        On::resource(Resource::SubjectAccessReviews),
        Fault::Forbidden,
    );
    let by_roles = || Doctor::by_kubeconfig(&api, &[SET, "--json"]).says();
    assert_eq!(
        by_roles().await.finding("permission-missing")["severity"],
        "ok"
    );
    api.modify(Resource::Roles, "lameduck", |role| {
        role["rules"].as_array_mut().unwrap().remove(1);
    });
    let said = by_roles().await;
    assert_eq!(said.finding("permission-missing")["severity"], "unknown");
    assert_eq!(said.status, 0);
    api.fail(On::resource(Resource::RoleBindings), Fault::Forbidden);
    assert_eq!(
        by_roles().await.finding("permission-missing")["severity"],
        "unknown"
    );
}

#[tokio::test]
async fn in_a_pod_with_the_charts_role_it_says_what_it_may_see_and_what_it_may_not() {
    let api = cluster().await;
    api.enforce_rules(role());
    let said = Doctor::in_pod(&api, &["--json"]).says().await;
    assert_eq!(said.status, 0, "{}", said.out);
    assert_eq!(said.json()["workload"], "StatefulSet/lameduck");
    let (ok, unknown) = (said.ids("ok"), said.ids("unknown"));
    for id in [
        "grace-too-short",
        "readiness-slow",
        "service-publishes-unready",
        "permission-missing",
    ] {
        assert!(ok.contains(&id.to_owned()), "{id}: {}", said.out);
    }
    for id in [
        "pdb-blocks",
        "rollout-takes-all",
        "grace-shorter-than-job",
        "settings-invalid",
    ] {
        assert!(unknown.contains(&id.to_owned()), "{id}: {}", said.out);
    }
    let why = said.finding("pdb-blocks")["happens"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        why.contains("poddisruptionbudgets") && why.contains("403"),
        "{why}"
    );
}

/// Eight checks want what the chart's Role does not grant: that is one thing to say, and not eight.
#[tokio::test]
async fn what_may_not_be_looked_at_is_said_once_with_the_rules_that_would_allow_it() {
    let api = cluster().await;
    api.enforce_rules(role());
    let said = Doctor::in_pod(&api, &[]).says().await;
    assert_eq!(said.status, 0, "{}", said.out);
    let blocks: Vec<&str> = said
        .out
        .lines()
        .filter(|l| l.starts_with("unknown "))
        .collect();
    // The other one is how long jobs take, which no permission would tell.
    assert_eq!(blocks.len(), 2, "{}", said.out);
    assert!(!said.out.contains("is forbidden"), "{}", said.out);
    for id in ["settings-invalid", "rollout-takes-all", "pdb-blocks"] {
        assert!(blocks[1].contains(id), "{id}: {}", said.out);
    }
    for words in [
        "may not get configmaps, get statefulsets.apps, list poddisruptionbudgets.policy.",
        "{apiGroups: [\"apps\"], resources: [statefulsets], verbs: [get]}",
        "{apiGroups: [\"policy\"], resources: [poddisruptionbudgets], verbs: [list]}",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    // Services were found by name, and the pods by their Role's own rule.
    assert!(!said.out.contains("list services"), "{}", said.out);
    let json = Doctor::in_pod(&api, &["--json"]).says().await.json();
    let checks = json["not_allowed"]["checks"].as_array().expect("a list");
    assert!(checks.contains(&json!("pdb-blocks")), "{json}");
}

#[tokio::test]
async fn in_a_pod_that_may_read_more_nothing_is_unknown_but_the_jobs() {
    let api = cluster().await;
    let said = Doctor::in_pod(&api, &["--json"]).says().await;
    assert_eq!(
        said.ids("unknown"),
        ["grace-shorter-than-job"],
        "{}",
        said.out
    );
    assert_eq!(said.status, 0);
}

#[tokio::test]
async fn in_a_pod_the_service_says_how_long_its_jobs_have_taken() {
    let api = cluster().await;
    let admin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = admin.local_addr().unwrap();
    let metrics = "lameduck_job_longest_run_seconds{pool=\"default\"} 41.5\n";
    let router = axum::Router::new().route(
        "/metrics",
        axum::routing::get(move || async move { metrics }),
    );
    tokio::spawn(async move { axum::serve(admin, router).await });
    let mut doctor = Doctor::in_pod(&api, &["--json"]);
    doctor.command.env("LAMEDUCK_ADMIN", address.to_string());

    let said = doctor.says().await;

    let finding = said.finding("grace-shorter-than-job");
    assert_eq!(finding["severity"], "problem", "{finding}");
    assert!(finding.to_string().contains("41.5"), "{finding}");
    assert_eq!(said.status, 2);
}

#[tokio::test]
async fn in_a_pod_services_that_may_only_be_read_by_name_are_found_by_their_slices() {
    let api = cluster().await;
    api.enforce_rules(role());
    api.modify(Resource::Services, "lameduck", |service| {
        service["spec"]["publishNotReadyAddresses"] = json!(true);
    });
    let said = Doctor::in_pod(&api, &["--json"]).says().await;
    assert_eq!(said.status, 2, "{}", said.out);
    assert_eq!(
        said.finding("service-publishes-unready")["object"],
        "Service/lameduck"
    );
}

/// By the ReplicaSet where that may be read, else by its name.
#[tokio::test]
async fn in_a_pod_of_a_deployment_it_finds_the_deployment() {
    for readable in [true, false] {
        let api = cluster().await;
        api.put(Resource::Deployments, deployment());
        let set = json!({"metadata": {"name": "web-5d4f8", "ownerReferences": owner("Deployment", "web")}});
        api.put(Resource::ReplicaSets, set);
        api.modify(Resource::Pods, POD, |pod| {
            pod["metadata"]["ownerReferences"] = owner("ReplicaSet", "web-5d4f8");
            pod["metadata"]["labels"]["pod-template-hash"] = json!("5d4f8");
        });
        if !readable {
            api.fail(On::resource(Resource::ReplicaSets), Fault::Forbidden);
        }
        let said = Doctor::in_pod(&api, &["--json"]).says().await;
        assert_eq!(said.json()["workload"], "Deployment/web");
        assert_eq!(
            said.finding("storage-embedded-replicas")["severity"],
            "problem"
        );
        assert_eq!(said.status, 2);
    }
}

#[tokio::test]
async fn people_read_the_worst_first_with_the_arithmetic_and_what_to_do() {
    let api = cluster().await;
    let mut web = deployment();
    let pod = &mut web["spec"]["template"]["spec"];
    pod["terminationGracePeriodSeconds"] = json!(20);
    let container = &mut pod["containers"][0];
    container["lifecycle"] = json!({"preStop": {"exec": {"command": ["sleep", "15"]}}});
    container["livenessProbe"]["httpGet"]["path"] = json!("/readyz");
    pod["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "queue"}}));
    api.put(Resource::Deployments, web);
    let claim = json!({"metadata": {"name": "queue"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    api.put(Resource::PersistentVolumeClaims, claim);
    let args = ["deployment/web", "--longest-job", "1m"];
    let said = Doctor::by_kubeconfig(&api, &args).says().await;
    assert_eq!(said.status, 2, "{}", said.err);
    let at = |words: &str| {
        said.out
            .find(words)
            .unwrap_or_else(|| panic!("'{words}' in {}", said.out))
    };
    at("A drain has 20 s, less 15 s for preStop");
    let problems = [
        "grace-too-short",
        "grace-shorter-than-job",
        "liveness-on-readyz",
        "storage-embedded-replicas",
        "storage-rwo-rolling",
    ];
    for id in problems {
        assert!(at(id) < at("\nwarning "), "{id} in {}", said.out);
    }
    assert!(at("\nwarning ") < at("\nok "));
    at("> Set terminationGracePeriodSeconds to");
    at("> Take lifecycle.preStop out");
    at("problems: ");
}

#[tokio::test]
async fn what_is_refused_is_unknown_and_the_rest_is_looked_at() {
    for (resource, unknown) in [
        (Resource::PodDisruptionBudgets, "pdb-blocks"),
        (Resource::Services, "service-publishes-unready"),
        (Resource::ConfigMaps, "settings-invalid"),
    ] {
        let api = cluster().await;
        api.fail(On::resource(resource), Fault::Forbidden);
        let said = Doctor::by_kubeconfig(&api, &[SET, "--json"]).says().await;
        assert_eq!(said.status, 0, "{}", said.out);
        assert!(
            said.ids("unknown").contains(&unknown.to_owned()),
            "{unknown}: {}",
            said.out
        );
        assert_eq!(said.finding("readiness-missing")["severity"], "ok");
    }
}

#[tokio::test]
async fn what_never_answers_is_unknown_after_two_seconds() {
    let api = cluster().await;
    api.fail(On::resource(Resource::PodDisruptionBudgets), Fault::Mute);
    let said = Doctor::by_kubeconfig(&api, &[SET, "--json"]).says().await;
    let why = said.finding("pdb-blocks")["happens"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(why.contains("no answer in time"), "{why}");
    assert_eq!(said.status, 0);
    assert!(said.took < Duration::from_secs(20), "{:?}", said.took);
}

#[tokio::test]
async fn without_permission_for_the_workload_itself_it_could_not_look() {
    let api = cluster().await;
    api.fail(
        On::verb(Verb::Get, Resource::StatefulSets),
        Fault::Forbidden,
    );
    let said = Doctor::by_kubeconfig(&api, &[SET, "--json"]).says().await;
    assert_eq!(said.status, 3);
    assert_eq!(said.json()["container"], Value::Null);
    let why = said.finding("readiness-missing")["happens"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(why.contains("statefulsets is forbidden"), "{why}");
}

#[tokio::test]
async fn a_mute_or_absent_api_server_ends_it_with_a_reason() {
    let api = cluster().await;
    api.fail(On::ALL, Fault::Mute);
    for doctor in [
        Doctor::by_kubeconfig(&api, &[SET, "--json"]),
        Doctor::in_pod(&api, &["--json"]),
        Doctor::by_kubeconfig(&api, &[SET, "--json", "--context", "elsewhere"]),
    ] {
        let said = doctor.says().await;
        assert_eq!(said.status, 3, "{}", said.out);
        assert!(said.took < Duration::from_secs(20), "{:?}", said.took);
        let error = said.json()["error"].as_str().unwrap().to_owned();
        assert!(
            error.contains("http://127.0.0.1") && error.contains("lameduck"),
            "{error}"
        );
        assert!(said.err.contains(&error), "{}", said.err);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_with_its_namespace() {
    let api = cluster().await;
    let said = Doctor::by_kubeconfig(&api, &["deployment/web"])
        .says()
        .await;
    assert_eq!((said.status, said.out.as_str()), (3, ""));
    assert!(
        said.err.contains("no Deployment/web in the namespace shop"),
        "{}",
        said.err
    );
    let said = Doctor::by_kubeconfig(&api, &[SET, "--namespace", "other"])
        .says()
        .await;
    assert_eq!(said.status, 3);
    assert!(said.err.contains("in the namespace other"), "{}", said.err);
    let said = Doctor::by_kubeconfig(&api, &[SET, "--context", "nowhere"])
        .says()
        .await;
    assert_eq!(said.status, 3);
    assert!(said.err.contains("nowhere"), "{}", said.err);
}

#[tokio::test]
async fn outside_of_a_pod_a_workload_has_to_be_named_and_rightly() {
    let said = Doctor::new(&[]).says().await;
    assert_eq!(said.status, 3);
    assert!(
        said.err.contains("lameduck doctor deployment/NAME"),
        "{}",
        said.err
    );
    let said = Doctor::new(&[SET]).says().await;
    assert_eq!(said.status, 3);
    assert!(said.err.contains("KUBECONFIG"), "{}", said.err);
    for wrong in ["web", "daemonset/web", "deployment/", "deployment/a/b"] {
        let said = Doctor::new(&[wrong]).says().await;
        assert_eq!((said.status, said.out.as_str()), (2, ""), "{wrong}");
    }
}

#[tokio::test]
async fn the_help_and_the_page_explain_the_exit_statuses() {
    let help = Doctor::new(&["--help"]).says().await;
    let page = include_str!("../../docs/doctor.md");
    for (status, words) in [("1", "warnings"), ("3", "could not look")] {
        assert!(
            help.out.contains(&format!("  {status}  {words}")),
            "{}",
            help.out
        );
        assert!(page.contains(&format!("| {status} | {words}")));
    }
}
