//! Runs each check against a healthy workload, and against the same workload with one defect.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    super::{
        access,
        facts::{Claim, Controller, Facts, Labels, Template},
        finding::Severity,
        program::{Program, Settings},
        seen::Seen,
    },
    CHECKS, run,
};
use lameduck_lifecycle::DrainSettings;

/// A workload as JSON, which a test changes before it becomes facts.
#[derive(Clone)]
struct Scene {
    stateful: bool,
    spec: Value,
    pods: Value,
    services: Value,
    budgets: Value,
    claims: Vec<(&'static str, bool, &'static str)>,
    denied: Vec<&'static str>,
    settings: Settings,
    longest_job: Option<Duration>,
    unread: BTreeSet<&'static str>,
}

/// The workload that the chart makes, with one replica and embedded storage.
fn single() -> Scene {
    let template = json!({
        "metadata": {"labels": {"app": "jobs"}},
        "spec": {
            "serviceAccountName": "jobs",
            "automountServiceAccountToken": true,
            "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "lameduck", "image": "lameduck:1", "command": ["/lameduck", "serve"],
                "ports": [{"containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9090}, "periodSeconds": 1, "failureThreshold": 2},
                "livenessProbe": {"httpGet": {"path": "/livez", "port": 9090}},
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/lameduck"}],
            }],
        },
    });
    Scene {
        stateful: true,
        spec: json!({
            "replicas": 1, "serviceName": "peers", "selector": {"matchLabels": {"app": "jobs"}},
            "template": template,
        }),
        pods: json!([pod("jobs-0", "n1")]),
        services: json!([
            service("jobs", json!({"app": "jobs"})),
            service("other", json!({"app": "other"}))
        ]),
        budgets: json!([budget("jobs", json!({"maxUnavailable": 1}))]),
        claims: vec![("data", true, "ReadWriteOnce")],
        denied: Vec::new(),
        settings: Settings::Read(Program {
            drain: DrainSettings::default(),
            data: Some(PathBuf::from("/var/lib/lameduck")),
            embedded: true,
        }),
        longest_job: Some(Duration::from_secs(20)),
        unread: BTreeSet::new(),
    }
}

/// A Deployment of three replicas that share a database.
fn several() -> Scene {
    let mut scene = single();
    scene.stateful = false;
    scene.spec["replicas"] = json!(3);
    scene.spec["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    scene.pods = json!([
        pod("a", "n1"),
        pod("b", "n1"),
        pod("c", "n2"),
        pod("d", "n2")
    ]);
    scene.claims.clear();
    program(&mut scene).embedded = false;
    scene
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "jobs"}},
        "spec": {"nodeName": node, "containers": [{"name": "lameduck", "volumeMounts": [
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
        ]}]},
    })
}

fn service(name: &str, selector: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": selector}})
}

fn budget(name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": "jobs"}});
    spec["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
    json!({"metadata": {"name": name}, "spec": spec})
}

fn program(scene: &mut Scene) -> &mut Program {
    match &mut scene.settings {
        Settings::Read(program) => program,
        other => panic!("{other:?}"),
    }
}

// === impl Scene ===

impl Scene {
    fn pod(&mut self) -> &mut Value {
        &mut self.spec["template"]["spec"]
    }

    fn container(&mut self) -> &mut Value {
        &mut self.pod()["containers"][0]
    }

    fn read<T: DeserializeOwned>(&self, what: &str, value: &Value) -> Seen<T> {
        match self.unread.contains(what) {
            true => Err(format!("{what} cannot be read").into()),
            false => Ok(serde_json::from_value(value.clone()).expect(what)),
        }
    }

    fn facts(&self) -> Facts {
        let template = &self.spec["template"];
        let labels: Labels =
            serde_json::from_value(template["metadata"]["labels"].clone()).expect("labels");
        let spec = self.read("template", &template["spec"]);
        let rules = access::rules(Some("jobs-0")).into_iter();
        Facts {
            namespace: "shop".to_owned(),
            workload: if self.stateful {
                "StatefulSet/jobs"
            } else {
                "Deployment/jobs"
            }
            .to_owned(),
            controller: match self.stateful {
                true => self
                    .read("controller", &self.spec)
                    .map(|s| Controller::StatefulSet(Box::new(s))),
                false => self
                    .read("controller", &self.spec)
                    .map(|s| Controller::Deployment(Box::new(s))),
            },
            template: spec
                .map(|spec| Template::new(Some(labels), Some(spec), None).expect("a template")),
            pods: self.read("pods", &self.pods),
            services: self.read("services", &self.services),
            budgets: self.read("budgets", &self.budgets),
            claims: self
                .claims
                .iter()
                .map(|(name, own, mode)| Claim {
                    name: (*name).to_owned(),
                    own: *own,
                    modes: self.read("claims", &json!([mode])),
                })
                .collect(),
            rules: rules
                .map(|rule| {
                    let allowed = !self.denied.contains(&rule.resource);
                    (rule, self.read("rules", &json!(allowed)))
                })
                .collect(),
            settings: match self.unread.contains("settings") {
                true => Settings::Unread("settings cannot be read".into()),
                false => self.settings.clone(),
            },
            longest_job: self.longest_job,
        }
    }

    /// Returns the ids of the findings of this severity.
    fn found(&self, severity: Severity) -> BTreeSet<&'static str> {
        let findings = run(&self.facts()).into_iter();
        findings
            .filter(|f| f.severity == severity)
            .map(|f| f.id)
            .collect()
    }
}

/// A defect, the workload that it is applied to, and the id of the finding.
struct Case {
    id: &'static str,
    base: fn() -> Scene,
    wrong: fn(&mut Scene),
}

fn case(id: &'static str, base: fn() -> Scene, wrong: fn(&mut Scene)) -> Case {
    Case { id, base, wrong }
}

fn cases() -> Vec<Case> {
    vec![
        case("settings-invalid", single, |s| {
            s.settings = Settings::Invalid("no such flag".into())
        }),
        case("grace-too-short", single, |s| {
            s.pod()["terminationGracePeriodSeconds"] = json!(8)
        }),
        case("grace-too-short", single, |s| {
            s.pod()["terminationGracePeriodSeconds"] = json!(0)
        }),
        // The fixed wait takes longer.
        case("grace-too-short", single, |s| {
            s.pod()["terminationGracePeriodSeconds"] = json!(15);
            s.denied = vec!["endpointslices"];
        }),
        case("grace-too-short", single, |s| {
            program(s).drain.lame_duck_share = 0.0
        }),
        case("grace-too-short", single, |s| {
            s.container()["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 25}}})
        }),
        case("grace-shorter-than-job", single, |s| {
            s.longest_job = Some(Duration::from_secs(21))
        }),
        case("grace-shorter-than-job", single, |s| {
            s.container()["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}})
        }),
        case("grace-setting-too-long", single, |s| {
            program(s).drain.grace = Duration::from_secs(31)
        }),
        case("grace-setting-too-long", single, |s| {
            s.container()["lifecycle"] =
                json!({"preStop": {"exec": {"command": ["sh", "-c", "sleep 5"]}}});
        }),
        case("grace-setting-too-short", single, |s| {
            s.pod()["terminationGracePeriodSeconds"] = json!(600)
        }),
        case("prestop-eats-budget", single, |s| {
            s.container()["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}})
        }),
        case("prestop-eats-budget", single, |s| {
            s.container()["lifecycle"] = json!({"preStop": {"httpGet": {"port": 1}}})
        }),
        case("prestop-needs-program", single, |s| {
            s.container()["lifecycle"] =
                json!({"preStop": {"exec": {"command": ["/bin/sleep", "5"]}}});
        }),
        case("shell-without-exec", single, |s| {
            s.container()["command"] = json!(["/bin/sh", "-ec", "setup; /lameduck serve"])
        }),
        case("shell-without-exec", single, |s| {
            s.container()["command"] = json!(["bash"]);
            s.container()["args"] = json!(["-c", "/lameduck serve"]);
        }),
        case("shared-process-namespace", single, |s| {
            s.pod()["shareProcessNamespace"] = json!(true)
        }),
        case("readiness-missing", single, |s| {
            s.container()["readinessProbe"] = Value::Null
        }),
        case("readiness-path", single, |s| {
            s.container()["readinessProbe"]["httpGet"]["path"] = json!("/livez")
        }),
        case("readiness-path", single, |s| {
            s.container()["readinessProbe"] =
                json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 2});
        }),
        case("readiness-slow", single, |s| {
            s.container()["readinessProbe"]["periodSeconds"] = json!(10)
        }),
        // The fixed wait leaves less time.
        case("readiness-slow", single, |s| {
            s.container()["readinessProbe"]["failureThreshold"] = json!(5);
            s.denied = vec!["endpointslices"];
        }),
        // A probe may have its own grace period.
        case("readiness-slow", single, |s| {
            s.container()["livenessProbe"]["terminationGracePeriodSeconds"] = json!(10)
        }),
        case("liveness-on-readyz", single, |s| {
            s.container()["livenessProbe"]["httpGet"]["path"] = json!("/readyz")
        }),
        case("storage-ephemeral", single, |s| {
            s.container()["volumeMounts"] = json!([])
        }),
        case("storage-ephemeral", single, |s| {
            s.pod()["volumes"] = json!([{"name": "data", "emptyDir": {}}])
        }),
        case("storage-ephemeral", single, |s| {
            program(s).data = Some("elsewhere".into())
        }),
        case("storage-embedded-replicas", single, |s| {
            s.spec["replicas"] = json!(2)
        }),
        // The new pod and the old one need the same lock.
        case("storage-embedded-replicas", single, |s| {
            s.stateful = false;
        }),
        case("storage-rwo-rolling", several, |s| {
            s.claims.push(("cache", false, "ReadWriteOnce"))
        }),
        case("storage-rwo-rolling", several, |s| {
            s.claims.push(("cache", false, "ReadWriteOncePod"));
            s.spec["strategy"] = Value::Null;
        }),
        case("rollout-takes-all", several, |s| {
            s.spec["strategy"] = json!({"type": "Recreate"})
        }),
        case("rollout-takes-all", several, |s| {
            s.spec["strategy"]["rollingUpdate"]["maxUnavailable"] = json!("100%");
        }),
        case("host-ports", several, |s| {
            s.pod()["hostNetwork"] = json!(true)
        }),
        case("host-ports", several, |s| {
            s.container()["ports"][0]["hostPort"] = json!(80)
        }),
        case("pdb-missing", several, |s| s.budgets = json!([])),
        case("pdb-missing", several, |s| {
            s.budgets[0]["spec"]["selector"] = json!({"matchLabels": {"app": "other"}})
        }),
        case("pdb-blocks", several, |s| {
            s.budgets = json!([budget("b", json!({"minAvailable": 3}))])
        }),
        case("pdb-blocks", several, |s| {
            s.budgets = json!([budget("b", json!({"minAvailable": "90%"}))])
        }),
        case("pdb-blocks", several, |s| {
            s.budgets = json!([budget("b", json!({"maxUnavailable": "0%"}))])
        }),
        case("pdb-blocks", single, |s| {
            s.budgets = json!([budget("b", json!({"minAvailable": 1}))])
        }),
        case("pdb-several", several, |s| {
            s.budgets
                .as_array_mut()
                .unwrap()
                .push(budget("b", json!({"maxUnavailable": 1})));
        }),
        case("pdb-unhealthy", several, |s| {
            s.budgets[0]["spec"]["unhealthyPodEvictionPolicy"] = Value::Null
        }),
        case("service-publishes-unready", single, |s| {
            s.services[0]["spec"]["publishNotReadyAddresses"] = json!(true)
        }),
        // The Service is named after the workload.
        case("service-selects-nothing", single, |s| {
            s.services[0]["spec"]["selector"]["app"] = json!("jbos")
        }),
        case("service-selects-nothing", single, |s| {
            s.services[1] = service("peers", json!({"app": "jobs", "role": "peer"}))
        }),
        // The Service loses its current pods.
        case("service-selects-nothing", several, |s| {
            s.spec["template"]["metadata"]["labels"]["app"] = json!("work")
        }),
        case("service-local-traffic", several, |s| {
            s.services[0]["spec"]["externalTrafficPolicy"] = json!("Local");
            s.pods[0]["spec"]["nodeName"] = json!("n3");
        }),
        case("token-not-mounted", single, |s| {
            s.pod()["automountServiceAccountToken"] = json!(false)
        }),
        // The ServiceAccount's own setting is visible on its pods.
        case("token-not-mounted", single, |s| {
            s.pod()["automountServiceAccountToken"] = Value::Null;
            s.pods[0]["spec"]["containers"][0]["volumeMounts"] = json!([]);
        }),
        case("permission-missing", single, |s| s.denied = vec!["pods"]),
        case("permission-missing", single, |s| {
            s.denied = vec!["services"]
        }),
    ]
}

fn severity(id: &str) -> Severity {
    let check = CHECKS.iter().find(|check| check.id == id);
    check
        .unwrap_or_else(|| panic!("there is no check {id}"))
        .severity
}

#[test]
fn what_is_well_is_ok_in_every_check() {
    for scene in [single(), several()] {
        for finding in run(&scene.facts()) {
            assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_found_under_its_name() {
    for (row, Case { id, base, wrong }) in cases().into_iter().enumerate() {
        let mut scene = base();
        wrong(&mut scene);
        let found = scene.found(severity(id));
        assert!(
            found.contains(id),
            "row {row} should be {id} and is {found:?}"
        );
    }
}

#[test]
fn every_check_has_a_case() {
    let tried: BTreeSet<&str> = cases().iter().map(|case| case.id).collect();
    let all: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(tried, all);
}

#[test]
fn every_finding_says_what_happens_and_what_to_do_in_whole_sentences() {
    for Case { base, wrong, .. } in cases() {
        let mut scene = base();
        wrong(&mut scene);
        for finding in run(&scene.facts()) {
            assert!(finding.happens.ends_with('.'), "{finding:?}");
            assert!(!finding.happens.contains("  "), "{finding:?}");
            let remedy = finding.remedy.as_deref().unwrap_or(".");
            assert!(
                remedy.ends_with('.') && !remedy.contains("  "),
                "{finding:?}"
            );
        }
    }
}

/// Workloads that resemble a defective one but are healthy.
#[test]
fn what_only_looks_wrong_is_ok() {
    let ok = [
        case("shell-without-exec", single, |s| {
            s.container()["command"] = json!(["sh", "-c", "setup && exec /lameduck serve"])
        }),
        case("readiness-path", single, |s| {
            s.container()["readinessProbe"] =
                json!({"grpc": {"port": 9090}, "periodSeconds": 1, "failureThreshold": 2});
        }),
        case("readiness-path", single, |s| {
            s.container()["readinessProbe"] = Value::Null
        }),
        case("storage-rwo-rolling", several, |s| {
            s.claims.push(("shared", false, "ReadWriteMany"))
        }),
        case("storage-rwo-rolling", several, |s| {
            s.claims.push(("cache", false, "ReadWriteOnce"));
            s.spec["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": 1});
        }),
        case("storage-ephemeral", several, |s| {
            s.container()["volumeMounts"] = json!([])
        }),
        case("rollout-takes-all", several, |s| {
            s.spec["strategy"] = Value::Null
        }),
        // An embedded queue has a gap with either strategy.
        case("rollout-takes-all", single, |s| {
            s.stateful = false;
            s.spec["strategy"] = json!({"type": "Recreate"});
        }),
        case("pdb-missing", single, |s| s.budgets = json!([])),
        case("pdb-blocks", several, |s| {
            s.budgets = json!([budget("b", json!({"minAvailable": 2}))])
        }),
        case("prestop-eats-budget", single, |s| {
            s.container()["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 0}}})
        }),
        case("service-local-traffic", several, |s| {
            s.services[0]["spec"]["externalTrafficPolicy"] = json!("Local")
        }),
    ];
    for (
        row,
        Case {
            id,
            base,
            wrong: change,
        },
    ) in ok.into_iter().enumerate()
    {
        let mut scene = base();
        change(&mut scene);
        assert!(scene.found(Severity::Ok).contains(id), "row {row}: {id}");
    }
}

#[test]
fn what_may_not_be_read_is_unknown_and_never_worse() {
    for (unread, expected) in [
        ("template", "readiness-missing"),
        ("controller", "rollout-takes-all"),
        ("services", "service-publishes-unready"),
        ("budgets", "pdb-blocks"),
        ("rules", "permission-missing"),
        ("settings", "storage-ephemeral"),
    ] {
        let mut scene = single();
        scene.unread.insert(unread);
        let found = scene.found(Severity::Unknown);
        assert!(found.contains(expected), "{unread}: {found:?}");
        let worse = [Severity::Warning, Severity::Problem].map(|severity| scene.found(severity));
        assert!(worse.iter().all(BTreeSet::is_empty), "{unread}: {worse:?}");
    }
    let mut scene = several();
    scene.claims.push(("cache", false, "ReadWriteOnce"));
    scene.unread.insert("claims");
    assert!(
        scene
            .found(Severity::Unknown)
            .contains("storage-rwo-rolling")
    );
    let mut scene = single();
    scene.stateful = false;
    scene.spec["strategy"] = json!({"type": "Recreate"});
    scene.unread.insert("settings");
    assert!(scene.found(Severity::Unknown).contains("rollout-takes-all"));
    let mut scene = several();
    scene.services[0]["spec"]["externalTrafficPolicy"] = json!("Local");
    scene.unread.insert("pods");
    assert!(
        scene
            .found(Severity::Unknown)
            .contains("service-local-traffic")
    );
}

#[test]
fn another_program_is_looked_at_without_its_settings_and_its_storage() {
    let mut scene = several();
    scene.settings = Settings::Foreign;
    scene.container()["volumeMounts"] = json!([]);
    let unknown: Vec<&str> = scene.found(Severity::Unknown).into_iter().collect();
    assert_eq!(
        unknown,
        ["grace-setting-too-long", "grace-setting-too-short"]
    );
    let worse = [Severity::Warning, Severity::Problem].map(|severity| scene.found(severity));
    assert!(worse.iter().all(BTreeSet::is_empty), "{worse:?}");
}

#[test]
fn how_long_jobs_take_is_not_made_up() {
    let mut scene = single();
    scene.longest_job = None;
    let findings = run(&scene.facts());
    let found = findings
        .iter()
        .find(|f| f.id == "grace-shorter-than-job")
        .unwrap();
    assert_eq!(found.severity, Severity::Unknown);
    assert!(found.happens.contains("20 s"), "{found:?}");
}

/// The number that the remedy names fixes the problem, and one less does not.
#[test]
fn the_grace_period_that_is_asked_for_is_enough_and_not_too_much() {
    let mut scene = single();
    scene.longest_job = Some(Duration::from_secs(125));
    scene.container()["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 7}}});
    let findings = run(&scene.facts());
    let remedy = findings
        .iter()
        .find(|f| f.id == "grace-shorter-than-job")
        .unwrap()
        .remedy
        .clone()
        .unwrap();
    let seconds: u64 = remedy
        .split(' ')
        .find_map(|word| word.parse().ok())
        .unwrap();
    let mut with = |seconds: u64| {
        scene.pod()["terminationGracePeriodSeconds"] = json!(seconds);
        scene
            .found(Severity::Problem)
            .contains("grace-shorter-than-job")
    };
    assert!(!with(seconds), "{remedy}");
    assert!(with(seconds - 1), "{remedy}");
}

#[test]
fn the_page_lists_the_same_checks() {
    let page = include_str!("../../../../docs/doctor.md");
    let table = page
        .split("| finding | severity |")
        .nth(1)
        .expect("a table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let documented: Vec<(String, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
        })
        .collect();
    let in_code: Vec<(String, String)> = CHECKS
        .iter()
        .map(|check| (check.id.to_owned(), check.severity.to_string()))
        .collect();
    assert_eq!(documented, in_code);
}
