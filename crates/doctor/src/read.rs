//! Sends the requests. A refused read becomes a fact with its reason. The examination only fails if the workload
//! or the own Pod does not exist, or if there is no answer about it.
//!
//! A pod with no more than the chart's Role can only read the own Pod, the EndpointSlices, and Services by name.
//! The Pod then stands in for its template, and the slices tell which Services to read.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, api::ListParams, core::Selector};
use serde::de::DeserializeOwned;

use super::{
    CannotLook, Question, Workload,
    access::{self, Subject},
    connect::{Place, Target},
    facts::{Claim, Controller, Facts, Template},
    program::{Invocation, Place as FilePlace, Reader, Settings},
    seen::{NotSeen, Seen},
};
use lameduck_kubernetes::{
    Identity,
    api::{Api, ApiError},
};

/// Number of objects per page, and maximum number of pages. A larger list is reported as not readable.
const PAGE: u32 = 500;
const PAGES: usize = 20;

/// The workload, its controller and its template, as far as they may be read.
struct Subjects {
    workload: String,
    controller: Seen<Controller>,
    template: Seen<Template>,
    /// The Pod that this process runs in.
    own: Option<Pod>,
}

pub(super) async fn read(place: Place, question: &Question) -> Result<Facts, CannotLook> {
    let api = &place.api;
    let Subjects {
        workload,
        controller,
        template,
        own,
    } = match &place.target {
        Target::Own(identity) => own_workload(&place, identity).await?,
        Target::Named(workload) => named_workload(&place, workload).await?,
    };
    let in_own_pod = matches!(place.target, Target::Own(_));
    let ((pods, services), budgets, claims, settings, rules) = tokio::join!(
        async {
            let pods = pods(api, &controller).await;
            let names = match (&own, &pods) {
                (Some(own), _) => own.metadata.name.iter().cloned().collect(),
                (None, Ok(pods)) => pods
                    .iter()
                    .filter_map(|p| p.metadata.name.clone())
                    .collect(),
                (None, Err(_)) => BTreeSet::new(),
            };
            let services = services(api, &names).await;
            (pods, services)
        },
        all::<PodDisruptionBudget>(api, None),
        claims(api, &controller, &template),
        settings(api, &template, in_own_pod, question.reader),
        rules(api, &place.target, &workload, &template),
    );
    Ok(Facts {
        namespace: api.namespace().to_owned(),
        workload,
        controller,
        template,
        pods,
        services,
        budgets,
        claims,
        rules,
        settings,
        longest_job: question.longest_job,
    })
}

// === whose pods ===

async fn named_workload(place: &Place, workload: &Workload) -> Result<Subjects, CannotLook> {
    let controller = controller(&place.api, workload).await;
    let controller = match controller {
        Ok(controller) => Ok(controller),
        Err(error) => {
            place.ends_with("workload", workload, &error)?;
            Err(not_read(workload, &error))
        }
    };
    let template = match &controller {
        Ok(controller) => of_controller(controller, None),
        Err(why) => Err(why.clone()),
    };
    Ok(Subjects {
        workload: workload.to_string(),
        controller,
        template,
        own: None,
    })
}

async fn own_workload(place: &Place, identity: &Identity) -> Result<Subjects, CannotLook> {
    let name = format!("Pod/{}", identity.name);
    let pod = match place.api.get::<Pod>(&identity.name).await {
        Ok(answer) => answer.object,
        Err(error) => {
            place.ends_with("pod", &name, &error)?;
            let why = NotSeen::asked::<Pod>("get", &name, &error);
            return Ok(Subjects {
                workload: name,
                controller: Err(why.clone()),
                template: Err(why),
                own: None,
            });
        }
    };
    let container = identity.container.as_deref();
    let (workload, controller) = match owner(&place.api, &pod).await {
        Ok(workload) => {
            let read = self::controller(&place.api, &workload).await;
            let read = read.map_err(|error| not_read(&workload, &error));
            (workload.to_string(), read)
        }
        Err(why) => (name, Err(why)),
    };
    let template = match &controller {
        // Use the template of the next rollout, not the Pod that an older rollout made.
        Ok(controller) => of_controller(controller, container),
        Err(_) => Template::new(pod.metadata.labels.clone(), pod.spec.clone(), container)
            .ok_or_else(|| "The Pod has no containers.".into()),
    };
    Ok(Subjects {
        workload,
        controller,
        template,
        own: Some(pod),
    })
}

/// Returns the Deployment or StatefulSet that this Pod belongs to.
async fn owner(api: &Api, pod: &Pod) -> Seen<Workload> {
    let owner = controlling(&pod.metadata).ok_or("Nobody owns this Pod.")?;
    match owner.kind.as_str() {
        "StatefulSet" => Ok(Workload::StatefulSet(owner.name.clone())),
        "ReplicaSet" => match api.get::<ReplicaSet>(&owner.name).await {
            Ok(set) => match controlling(&set.object.metadata) {
                Some(owner) if owner.kind == "Deployment" => {
                    Ok(Workload::Deployment(owner.name.clone()))
                }
                _ => Err(format!("The ReplicaSet {} belongs to no Deployment.", owner.name).into()),
            },
            // Derive it: a Deployment names its ReplicaSets after itself and the hash of the template.
            Err(error) => {
                let labels = pod.metadata.labels.as_ref();
                let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
                hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                    .map(|name| Workload::Deployment(name.to_owned()))
                    .ok_or_else(|| {
                        let name = format!("ReplicaSet {}", owner.name);
                        NotSeen::asked::<ReplicaSet>("get", name, &error)
                    })
            }
        },
        kind => Err(format!(
            "The Pod is of a {kind}, and neither of a Deployment nor a StatefulSet."
        )
        .into()),
    }
}

fn controlling(
    meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

async fn controller(api: &Api, workload: &Workload) -> Result<Controller, ApiError> {
    Ok(match workload {
        Workload::Deployment(name) => {
            let spec = api.get::<Deployment>(name).await?.object.spec;
            Controller::Deployment(Box::new(spec))
        }
        Workload::StatefulSet(name) => {
            let spec = api.get::<StatefulSet>(name).await?.object.spec;
            Controller::StatefulSet(Box::new(spec))
        }
    })
}

fn not_read(workload: &Workload, error: &ApiError) -> NotSeen {
    match workload {
        Workload::Deployment(_) => NotSeen::asked::<Deployment>("get", workload, error),
        Workload::StatefulSet(_) => NotSeen::asked::<StatefulSet>("get", workload, error),
    }
}

fn of_controller(controller: &Controller, container: Option<&str>) -> Seen<Template> {
    let template = match controller {
        Controller::Deployment(spec) => spec.template.clone(),
        Controller::StatefulSet(spec) => spec.template.clone(),
    };
    let labels = template.metadata.and_then(|meta| meta.labels);
    Template::new(labels, template.spec, container)
        .ok_or_else(|| "The template has no containers.".into())
}

impl Place {
    /// Decides whether an error ends the examination: all do, except for a missing permission, which is a fact.
    fn ends_with(
        &self,
        kind: &str,
        what: impl std::fmt::Display,
        error: &ApiError,
    ) -> Result<(), CannotLook> {
        if error.is_missing() {
            return Err(CannotLook::NoSuch {
                what: what.to_string(),
                namespace: self.api.namespace().to_owned(),
                hint: match kind {
                    "pod" => {
                        "if that is not this pod's name, set POD_NAME and POD_NAMESPACE by the downward API"
                    }
                    _ => "choose another with --namespace or --context",
                },
            });
        }
        if error.is_denied() {
            return Ok(());
        }
        Err(CannotLook::Unanswered {
            url: self.url.clone(),
            what: what.to_string(),
            why: error.to_string(),
        })
    }
}

// === what surrounds them ===

async fn pods(api: &Api, controller: &Seen<Controller>) -> Seen<Vec<Pod>> {
    let selector = controller.as_ref().map_err(Clone::clone)?.selector();
    let selector =
        Selector::try_from(selector.clone()).map_err(|error| NotSeen::from(error.to_string()))?;
    all(api, Some(selector.to_string())).await
}

/// Returns all Services of the namespace, or those that hold one of these pods if they may only be read by name.
async fn services(api: &Api, pods: &BTreeSet<String>) -> Seen<Vec<Service>> {
    let why = match all::<Service>(api, None).await {
        Ok(services) => return Ok(services),
        Err(why) => why,
    };
    let Ok(slices) = all::<EndpointSlice>(api, None).await else {
        return Err(why);
    };
    if pods.is_empty() {
        return Err(why);
    }
    let holding: BTreeSet<String> = slices.iter().filter_map(|s| service_of(s, pods)).collect();
    let read = holding.iter().map(|name| api.get::<Service>(name));
    let mut services = Vec::new();
    for (read, name) in join_all(read).await.into_iter().zip(&holding) {
        match read {
            Ok(answer) => services.push(answer.object),
            Err(error) if error.is_missing() => {}
            Err(error) => {
                let name = format!("Service/{name}");
                return Err(NotSeen::asked::<Service>("get", name, &error));
            }
        }
    }
    Ok(services)
}

fn service_of(slice: &EndpointSlice, pods: &BTreeSet<String>) -> Option<String> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get("kubernetes.io/service-name")?;
    let mut targets = slice
        .endpoints
        .iter()
        .flatten()
        .filter_map(|e| e.target_ref.as_ref());
    let holds = targets.any(|target| {
        target.kind.as_deref() == Some("Pod")
            && target.name.as_ref().is_some_and(|name| pods.contains(name))
    });
    holds.then(|| service.clone())
}

async fn claims(api: &Api, controller: &Seen<Controller>, template: &Seen<Template>) -> Vec<Claim> {
    let mut claims = Vec::new();
    if let Ok(Controller::StatefulSet(spec)) = controller {
        for claim in spec.volume_claim_templates.iter().flatten() {
            claims.push(Claim {
                name: claim.metadata.name.clone().unwrap_or_default(),
                own: true,
                modes: Ok(modes(claim)),
            });
        }
    }
    let Ok(template) = template else {
        return claims;
    };
    let named = template.spec.volumes.iter().flatten().filter_map(|volume| {
        let claim = volume.persistent_volume_claim.as_ref()?;
        Some(claim.claim_name.clone())
    });
    let read = named.map(|name| async move {
        let read = api.get::<PersistentVolumeClaim>(&name).await;
        let modes = read.map(|answer| modes(&answer.object)).map_err(|error| {
            let name = format!("PersistentVolumeClaim/{name}");
            NotSeen::asked::<PersistentVolumeClaim>("get", name, &error)
        });
        Claim {
            name,
            own: false,
            modes,
        }
    });
    claims.extend(join_all(read).await);
    claims
}

fn modes(claim: &PersistentVolumeClaim) -> Vec<String> {
    let modes = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.clone());
    modes.unwrap_or_default()
}

async fn rules(
    api: &Api,
    target: &Target,
    workload: &str,
    template: &Seen<Template>,
) -> Vec<(super::facts::Rule, Seen<bool>)> {
    match (target, template) {
        (Target::Own(identity), _) => {
            let rules = access::rules(Some(&identity.name));
            access::review(api, &Subject::Own, rules).await
        }
        (Target::Named(named), Ok(template)) => {
            let account = template.spec.service_account_name.clone();
            let account = account.filter(|name| !name.is_empty());
            let subject = Subject::Account(account.unwrap_or_else(|| "default".to_owned()));
            // The names of a Deployment's pods are generated, so no Role can contain them.
            let pod = match named {
                Workload::StatefulSet(name) => Some(format!("{name}-0")),
                Workload::Deployment(_) => None,
            };
            access::review(api, &subject, access::rules(pod.as_deref())).await
        }
        (Target::Named(_), Err(_)) => {
            let why = NotSeen::from(format!("Which ServiceAccount {workload} has is not known."));
            let rules = access::rules(None).into_iter();
            rules.map(|rule| (rule, Err(why.clone()))).collect()
        }
    }
}

// === the program's settings ===

async fn settings(
    api: &Api,
    template: &Seen<Template>,
    in_own_pod: bool,
    reader: Reader,
) -> Settings {
    let template = match template {
        Ok(template) => template,
        Err(why) => return Settings::Unread(why.clone()),
    };
    let container = template.container();
    let local = |name: &str| std::env::var(name).ok().filter(|_| in_own_pod);
    let Some((mut told, hidden)) = Invocation::of(container, local) else {
        return Settings::Foreign;
    };
    if !hidden.is_empty() {
        return Settings::Unread(format!("{} come from elsewhere", hidden.join(", ")).into());
    }
    if let Some(path) = told.config() {
        let here = in_own_pod
            .then(|| std::fs::read_to_string(&path).ok())
            .flatten();
        let text = match here {
            Some(text) => Ok(text),
            None => file(api, FilePlace::of(&path, container, &template.spec)).await,
        };
        match text {
            Ok(text) => told.file = Some(text),
            Err(why) => return Settings::Unread(why),
        }
    }
    match reader(&told) {
        Ok(program) => Settings::Read(program),
        Err(why) => Settings::Invalid(why),
    }
}

async fn file(api: &Api, place: FilePlace) -> Seen<String> {
    let (name, key) = match place {
        FilePlace::ConfigMap { name, key } => (name, key),
        FilePlace::Elsewhere(why) => return Err(why.into()),
    };
    let map = api.get::<ConfigMap>(&name).await;
    let what = format!("ConfigMap/{name}");
    let map = map.map_err(|error| NotSeen::asked::<ConfigMap>("get", what, &error))?;
    let text = map.object.data.and_then(|mut data| data.remove(&key));
    text.ok_or_else(|| format!("ConfigMap/{name} has no key {key}").into())
}

/// Lists all objects of a kind, page by page.
pub(super) async fn all<K>(api: &Api, labels: Option<String>) -> Seen<Vec<K>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    params.label_selector = labels;
    let mut found = Vec::new();
    for _ in 0..PAGES {
        let page = api.list::<K>(&params).await;
        let page = page.map_err(|error| NotSeen::asked::<K>("list", K::plural(&()), &error))?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
    Err(format!(
        "There are more than {} {}.",
        PAGE as usize * PAGES,
        K::plural(&())
    )
    .into())
}
