//! Teardown hooks: each does exactly one thing, and none removes more than was meant.

use std::path::{Component, Path};

use super::{
    super::{
        Hook, Source, Task,
        settings::{HookSettings, ProcessValues},
        value::Time,
    },
    Findings,
};

impl Findings {
    pub(super) fn hook(
        &mut self,
        place: &Source,
        hook: &HookSettings,
        process: &ProcessValues,
    ) -> Option<Hook> {
        let before = self.errors.len();
        let Some(name) = &hook.name else {
            self.error(
                place,
                "a teardown hook has no name; give it one, as in name = \"broker\"",
            );
            return None;
        };
        let shown = &name.value;
        if let Some(method) = hook.method.as_ref().filter(|_| hook.url.is_none()) {
            self.error(
                &method.source,
                format!("method of hook '{shown}' says nothing without url"),
            );
        }
        let task = match (&hook.run, &hook.url, &hook.remove) {
            (Some(run), None, None) => Task::Run(run.value.clone()),
            (None, Some(url), None) => {
                if url.value.0.scheme() != "http" {
                    self.error(
                        &url.source,
                        format!("url of hook '{shown}' is not plain http; for https run a command: run = \"curl …\""),
                    );
                }
                Task::Request {
                    method: hook.in_force().method.0,
                    url: url.value.clone(),
                }
            }
            (None, None, Some(remove)) => {
                if let Err(why) = may_be_removed(&remove.value, &process.data) {
                    let path = remove.value.display();
                    self.error(
                        &remove.source,
                        format!("remove = '{path}' of hook '{shown}' is refused: {why}"),
                    );
                }
                Task::Remove {
                    path: remove.value.clone(),
                    never: process.data.clone(),
                }
            }
            _ => {
                self.error(
                    place,
                    format!(
                        "hook '{shown}' does exactly one thing: give it one of run, url and remove"
                    ),
                );
                return None;
            }
        };
        let kept = process.teardown.0;
        if let Some(timeout) = hook
            .timeout
            .as_ref()
            .filter(|timeout| timeout.value.0 > kept)
        {
            self.warning(
                &timeout.source,
                format!(
                    "timeout = {} of hook '{shown}' is {} longer than what is kept for all hooks (teardown = {}): after a \
                     drain that took all its time it will be stopped earlier; lower it, or raise teardown",
                    timeout.value,
                    Time(timeout.value.0 - kept),
                    process.teardown
                ),
            );
        }
        if let Some(timeout) = hook.timeout.as_ref().filter(|t| t.value.0.is_zero()) {
            self.error(
                &timeout.source,
                format!(
                    "timeout = {} of hook '{shown}' lets it do nothing; give it some time",
                    timeout.value
                ),
            );
        }
        (self.errors.len() == before).then(|| Hook {
            name: shown.clone(),
            task,
            timeout: hook.in_force().timeout,
        })
    }
}

/// Checks that a path may be removed: a typo must not cost a file system, or the queue.
fn may_be_removed(path: &Path, data: &Path) -> Result<(), &'static str> {
    // Paths are compared as they are written, and with links resolved. A path that does not exist has no links.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| absolute(path));
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("it contains '..'; write the path without");
    }
    let names = |path: &Path| {
        path.components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .count()
    };
    if names(path) == 0 || (path.is_absolute() && names(path) < 2) {
        return Err("it is a root, or a folder right below it; name something inside");
    }
    let text = path.as_os_str().as_encoded_bytes();
    if text.starts_with(b"~") || text.iter().any(|byte| b"*?[$".contains(byte)) {
        return Err(
            "there is no shell to make something of '~', '*', '?', '[' and '$'; write the path out",
        );
    }
    if absolute(data).starts_with(absolute(path)) || resolved(data).starts_with(resolved(path)) {
        return Err("the queue's data is in it (setting 'data')");
    }
    Ok(())
}
