//! Checks that accepted jobs are kept on a disk that outlives the pod and is used by one process on one node.

use super::{
    super::{
        facts::{Controller, Facts, Template},
        finding::Severity,
        program::{Program, Settings},
        seen::NotSeen,
    },
    Check, Trouble, Unread, when,
};

/// The directory in which the stock image keeps its data (the Dockerfile's `LAMEDUCK_DATA`).
const IMAGE_DATA: &str = "/var/lib/lameduck";

pub(super) const EPHEMERAL: Check = Check {
    id: "storage-ephemeral",
    severity: Severity::Problem,
    fine: "Accepted jobs, if lameduck keeps any here, are kept where the next pod finds them.",
    run: |facts| {
        let Some(program) = embedded(facts)? else {
            return Ok(Vec::new());
        };
        let template = facts.template.as_ref()?;
        let data = data(program, template);
        let why = match volume(template, &data) {
            Volume::None => "in the container's own file system",
            Volume::EmptyDir => "on an emptyDir",
            Volume::Lasting => return Ok(Vec::new()),
        };
        let happens = format!(
            "The queue is in {data}, {why}: every job that was accepted and has not ended is gone with the pod."
        );
        let remedy = format!(
            "Mount a PersistentVolumeClaim at {data} (volumeClaimTemplates, volumeMounts)."
        );
        Ok(vec![Trouble::own(facts, happens, remedy)])
    },
};

pub(super) const EMBEDDED_REPLICAS: Check = Check {
    id: "storage-embedded-replicas",
    severity: Severity::Problem,
    fine: "No two pods need the same embedded database.",
    run: |facts| {
        let Some(_) = embedded(facts)? else {
            return Ok(Vec::new());
        };
        let controller = facts.controller.as_ref()?;
        let replicas = controller.replicas();
        if replicas > 1 {
            let happens = format!(
                "The queue is embedded and belongs to one process, and there are {replicas} replicas: they \
                 cannot open one database, and with one each nobody else runs, or knows, the jobs of a pod \
                 that is gone."
            );
            let remedy = "Set spec.replicas to 1, and raise workers to run more jobs at a time.";
            return Ok(vec![Trouble::own(facts, happens, remedy)]);
        }
        // Both pods need the same lock, so neither the node nor the access mode makes a difference.
        let surge = controller.rolling().is_some_and(|(surge, _)| surge > 0);
        when(surge && replicas == 1, || {
            let happens = "The queue is embedded and belongs to one process, and a rollout starts the new one \
                           while the old one has it: the new pod does not get ready, and the old one stays \
                           until it does."
                .to_owned();
            let remedy = "Make it a StatefulSet, or set spec.strategy.type to Recreate.";
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const RWO_ROLLING: Check = Check {
    id: "storage-rwo-rolling",
    severity: Severity::Problem,
    fine: "No rollout needs a volume on two nodes at once.",
    run: |facts| {
        let controller = facts.controller.as_ref()?;
        let surge = controller.rolling().is_some_and(|(surge, _)| surge > 0);
        if !surge || matches!(controller, Controller::StatefulSet(_)) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for claim in facts.claims.iter().filter(|claim| !claim.own) {
            let modes = claim.modes.as_ref()?;
            let once = ["ReadWriteOnce", "ReadWriteOncePod"];
            if !modes.is_empty() && modes.iter().all(|mode| once.contains(&mode.as_str())) {
                let happens = format!(
                    "The new pod waits for the volume of claim {}, which is {}, and the old one stays until the \
                     new one is ready: the rollout never ends (Multi-Attach), unless both share a node.",
                    claim.name,
                    modes.join(", "),
                );
                let remedy = "Make it a StatefulSet, or set spec.strategy.rollingUpdate.maxSurge to 0 and maxUnavailable to 1.";
                found.push(Trouble::own(facts, happens, remedy));
            }
        }
        Ok(found)
    },
};

/// Returns the program, if it keeps its jobs on its own disk.
pub(super) fn embedded(facts: &Facts) -> Result<Option<&Program>, Unread> {
    match &facts.settings {
        Settings::Read(program) => Ok(Some(program).filter(|program| program.embedded)),
        Settings::Foreign => Ok(None),
        Settings::Invalid(_) => {
            Err((&NotSeen::from("The program's settings are not valid.")).into())
        }
        Settings::Unread(why) => Err(why.into()),
    }
}

fn data(program: &Program, template: &Template) -> String {
    let path = match &program.data {
        Some(path) => path.display().to_string(),
        None => return IMAGE_DATA.to_owned(),
    };
    match template.container().working_dir.as_deref() {
        Some(dir) if !path.starts_with('/') => format!("{}/{path}", dir.trim_end_matches('/')),
        // The working directory of the stock image is the root.
        None if !path.starts_with('/') => format!("/{path}"),
        _ => path,
    }
}

enum Volume {
    None,
    EmptyDir,
    Lasting,
}

fn volume(template: &Template, path: &str) -> Volume {
    let Some(name) = template.volume_of(path) else {
        return Volume::None;
    };
    // A StatefulSet's own claims are not among the volumes of its template.
    let mut volumes = template.spec.volumes.iter().flatten();
    match volumes.find(|volume| volume.name == name) {
        Some(volume) if volume.empty_dir.is_some() || volume.ephemeral.is_some() => {
            Volume::EmptyDir
        }
        _ => Volume::Lasting,
    }
}
