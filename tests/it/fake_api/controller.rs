//! What controllers and the kubelet do to Pods and EndpointSlices, one step at a time, when the test says so.

use serde_json::{Value, json};

use super::{FakeApi, Resource, store::name};

/// A ready pod of a Deployment.
pub fn pod(name: &str, uid: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "uid": uid,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}],
        },
        "spec": {
            "nodeName": "n1", "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "app", "image": "app"}],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// An entry that the endpoint slice controller would write for this pod (`podToEndpoint`).
pub fn endpoint(pod: &Value, publish_not_ready: bool) -> Value {
    let conditions = pod["status"]["conditions"].as_array();
    let serving = conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    });
    let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
    let ready = publish_not_ready || (serving && !terminating);
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "namespace": super::NAMESPACE, "name": name(pod), "uid": pod["metadata"]["uid"]},
    })
}

impl FakeApi {
    /// A slice of this Service that holds these pods, as they are now.
    pub fn place(&self, slice: &str, service: &str, pods: &[&str]) {
        let publish = self.publishes_not_ready(service);
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|pod| endpoint(&self.read(Resource::Pods, pod).expect("a pod"), publish))
            .collect();
        self.put(
            Resource::EndpointSlices,
            json!({
                "metadata": {"name": slice, "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                "endpoints": endpoints,
            }),
        );
    }

    /// The EndpointSlice controller has seen what became of this Service's pods.
    pub fn sync(&self, service: &str) {
        let publish = self.publishes_not_ready(service);
        let slices: Vec<Value> = self
            .shared
            .store()
            .all(Resource::EndpointSlices)
            .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service)
            .cloned()
            .collect();
        for mut slice in slices {
            let was = slice.clone();
            let entries = slice["endpoints"].as_array().cloned().unwrap_or_default();
            let now: Vec<Value> = entries
                .iter()
                .filter_map(|entry| {
                    let pod = entry["targetRef"]["name"].as_str()?;
                    Some(endpoint(&self.read(Resource::Pods, pod)?, publish))
                })
                .collect();
            slice["endpoints"] = json!(now);
            if slice != was {
                self.put(Resource::EndpointSlices, slice);
            }
        }
    }

    /// Sets one entry's conditions, whatever the pod is like.
    pub fn set_endpoint(&self, slice: &str, pod: &str, [ready, serving, terminating]: [bool; 3]) {
        self.modify(Resource::EndpointSlices, slice, |slice| {
            for entry in slice["endpoints"].as_array_mut().into_iter().flatten() {
                if entry["targetRef"]["name"] == pod {
                    entry["conditions"] =
                        json!({"ready": ready, "serving": serving, "terminating": terminating});
                }
            }
        });
    }

    /// Takes a pod's entry out of a slice.
    pub fn remove_endpoint(&self, slice: &str, pod: &str) {
        self.modify(Resource::EndpointSlices, slice, |slice| {
            if let Some(entries) = slice["endpoints"].as_array_mut() {
                entries.retain(|entry| entry["targetRef"]["name"] != pod);
            }
        });
    }

    /// `kubectl delete pod`, as the API server takes it: a second one can only shorten the grace period,
    /// counted from the first.
    pub fn delete_pod(&self, pod: &str, grace: i64) {
        if grace == 0 {
            return self.remove(Resource::Pods, pod);
        }
        let now = self.shared.now();
        self.modify(Resource::Pods, pod, |pod| {
            let meta = &mut pod["metadata"];
            let deleted = match meta["deletionGracePeriodSeconds"].as_i64() {
                Some(before) if grace >= before => return,
                Some(before) => {
                    let stamp = meta["deletionTimestamp"].as_str().expect("a time");
                    let stamp: jiff::Timestamp = stamp.parse().expect("a time");
                    stamp.as_second() - before
                }
                None => now.as_second(),
            };
            let stamp = jiff::Timestamp::from_second(deleted + grace).expect("a time");
            meta["deletionTimestamp"] = json!(stamp.to_string());
            meta["deletionGracePeriodSeconds"] = json!(grace);
        });
    }

    /// The kubelet has probed.
    pub fn set_ready(&self, pod: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        self.modify(Resource::Pods, pod, |pod| {
            let ready = json!({"type": "Ready", "status": status});
            match pod["status"]["conditions"].as_array_mut() {
                Some(conditions) => {
                    conditions.retain(|condition| condition["type"] != "Ready");
                    conditions.push(ready);
                }
                None => pod["status"]["conditions"] = json!([ready]),
            }
        });
    }

    fn publishes_not_ready(&self, service: &str) -> bool {
        self.read(Resource::Services, service)
            .is_some_and(|service| service["spec"]["publishNotReadyAddresses"] == true)
    }
}
