//! Checks whether SIGTERM reaches the program, and whether its processes outlive it.

use super::{
    super::{finding::Severity, program::script},
    Check, Trouble, when,
};

pub(super) const SHELL_WITHOUT_EXEC: Check = Check {
    id: "shell-without-exec",
    severity: Severity::Problem,
    fine: "No shell stands between the kubelet and the program, as far as the Pod shows.",
    run: |facts| {
        let container = facts.template.as_ref()?.container();
        let command = container.command.iter().flatten();
        let words: Vec<String> = command
            .chain(container.args.iter().flatten())
            .cloned()
            .collect();
        let script = script(&words).unwrap_or_default();
        let execs = script
            .split([';', '\n', '&', '|'])
            .any(|part| part.trim_start().starts_with("exec "));
        when(!script.is_empty() && !execs, || {
            let happens = format!(
                "A shell is process 1 and keeps SIGTERM to itself: the program never drains, and is killed at \
                 the end of the grace period with all that it holds ('{script}')."
            );
            let remedy = format!(
                "Name the program itself in command of container {}, or write exec before it in the script.",
                container.name
            );
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const SHARED_PROCESS_NAMESPACE: Check = Check {
    id: "shared-process-namespace",
    severity: Severity::Warning,
    fine: "The container's processes end with it.",
    run: |facts| {
        let spec = &facts.template.as_ref()?.spec;
        let shared = spec.share_process_namespace == Some(true) || spec.host_pid == Some(true);
        when(shared, || {
            let happens = "When the container is killed, commands that it has started live on, beside the next \
                           run of their jobs: the kernel ends them only where the program is process 1."
                .to_owned();
            Trouble::own(
                facts,
                happens,
                "Take shareProcessNamespace (or hostPID) out of the Pod's spec.",
            )
        })
    },
};
