//! Finds the settings of the container's program: its command line, its environment, its settings file.
//!
//! The meaning of the settings is left to the program: the caller supplies a function that reads them
//! ([`Reader`]). This module only finds them in a Pod.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::seen::NotSeen;
use lameduck_lifecycle::DrainSettings;

/// A function that reads the program's settings; its error says what is wrong with them.
pub type Reader = fn(&Invocation) -> Result<Program, String>;

/// The inputs from which the program reads its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invocation {
    /// The arguments after `serve`.
    pub args: Vec<String>,
    /// The program's environment, as far as it is known.
    pub env: BTreeMap<String, String>,
    /// The text of the program's settings file, if there is one.
    pub file: Option<String>,
}

/// The program's settings.
#[derive(Clone, Debug)]
pub struct Program {
    /// The settings of the drain.
    pub drain: DrainSettings,
    /// The directory of the embedded database, if the jobs are kept there and a directory was named.
    pub data: Option<PathBuf>,
    /// Whether jobs are kept in an embedded database, by one process on one disk.
    pub embedded: bool,
}

/// The program's settings, or why they are not known.
#[derive(Clone, Debug)]
pub(super) enum Settings {
    Read(Program),
    /// The container runs another program, which uses the library and has its settings in its code.
    Foreign,
    /// The program would refuse to start with these settings; the reason.
    Invalid(String),
    /// The settings could not be read; the reason.
    Unread(NotSeen),
}

/// The location of the settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    ConfigMap {
        name: String,
        key: String,
    },
    /// In the image, in a Secret, or elsewhere; a sentence that says where.
    Elsewhere(String),
}

/// Returns the words of the command line; if it runs a shell, those of the shell's script.
fn words(container: &Container) -> Vec<String> {
    let command = container.command.iter().flatten();
    let words: Vec<String> = command
        .chain(container.args.iter().flatten())
        .cloned()
        .collect();
    match script(&words) {
        Some(script) => shell_words::split(script).unwrap_or_default(),
        None => words,
    }
}

/// Returns the script that a shell is given to run, as in `sh -c 'exec /lameduck serve'`.
pub(super) fn script(words: &[String]) -> Option<&str> {
    let shell = words.first()?.rsplit('/').next()?;
    let known = ["sh", "bash", "ash", "dash", "zsh", "ksh"];
    if !known.contains(&shell) {
        return None;
    }
    let short = |word: &&String| word.starts_with('-') && !word.starts_with("--");
    let flag = words
        .iter()
        .position(|word| short(&word) && word.ends_with('c'))?;
    words.get(flag + 1).map(String::as_str)
}

/// Returns the arguments after `lameduck serve`; `None` if the container runs something else.
fn arguments(container: &Container) -> Option<Vec<String>> {
    let words = words(container);
    let serve = words
        .windows(2)
        .position(|pair| pair[0].rsplit('/').next() == Some("lameduck") && pair[1] == "serve");
    if let Some(serve) = serve {
        return Some(words[serve + 2..].to_vec());
    }
    // Otherwise the image's own entry point may be lameduck.
    let by_image = container.command.is_none() && is_named_so(container);
    match words.split_first() {
        None if by_image => Some(Vec::new()),
        Some((first, rest)) if by_image && first == "serve" => Some(rest.to_vec()),
        _ => None,
    }
}

fn is_named_so(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let repository = image.rsplit('/').next().unwrap_or_default();
    let mut env = container.env.iter().flatten();
    repository.starts_with("lameduck")
        || env.any(|var| ["LAMEDUCK_CONFIG", "LAMEDUCK_EXEC"].contains(&var.name.as_str()))
}

/// Returns whether the container runs `lameduck serve`.
pub(super) fn is_lameduck(container: &Container) -> bool {
    arguments(container).is_some()
}

// === impl Invocation ===

impl Invocation {
    /// Returns the invocation of this container's program, and the names of those `LAMEDUCK_` variables whose
    /// values are kept elsewhere; `None` if it is another program. `local` looks up such values if this process
    /// has the same environment.
    pub(super) fn of(
        container: &Container,
        local: impl Fn(&str) -> Option<String>,
    ) -> Option<(Self, Vec<String>)> {
        let args = arguments(container)?;
        let mut env = BTreeMap::new();
        let mut hidden = Vec::new();
        for var in container.env.iter().flatten() {
            let value = match &var.value_from {
                Some(_) => local(&var.name),
                None => Some(var.value.clone().unwrap_or_default()),
            };
            match value {
                Some(value) => {
                    env.insert(var.name.clone(), value);
                }
                None if var.name.starts_with("LAMEDUCK_") => hidden.push(var.name.clone()),
                None => {}
            }
        }
        Some((
            Self {
                args,
                env,
                file: None,
            },
            hidden,
        ))
    }

    /// Returns the path of the settings file.
    pub(super) fn config(&self) -> Option<String> {
        let mut args = self.args.iter();
        while let Some(arg) = args.next() {
            if arg == "--config" {
                return args.next().cloned();
            }
            if let Some(path) = arg.strip_prefix("--config=") {
                return Some(path.to_owned());
            }
        }
        self.env
            .get("LAMEDUCK_CONFIG")
            .filter(|path| !path.is_empty())
            .cloned()
    }
}

// === impl Place ===

impl Place {
    /// Finds out which volume or image this path of the container comes from.
    pub(super) fn of(path: &str, container: &Container, spec: &PodSpec) -> Self {
        let elsewhere = |what: &str| Self::Elsewhere(format!("{path} is {what}"));
        let mounts = container.volume_mounts.iter().flatten();
        let mount = mounts
            .filter(|mount| std::path::Path::new(path).starts_with(&mount.mount_path))
            .max_by_key(|mount| mount.mount_path.len());
        let Some(mount) = mount else {
            return elsewhere("in the image");
        };
        let volume = spec
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == mount.name);
        let Some(map) = volume.and_then(|volume| volume.config_map.as_ref()) else {
            return elsewhere("on a volume that is no ConfigMap");
        };
        let below = path.strip_prefix(&mount.mount_path).unwrap_or_default();
        let below = below.trim_start_matches('/');
        let file = match (&mount.sub_path, below) {
            (Some(file), "") => file.clone(),
            (Some(dir), below) => format!("{dir}/{below}"),
            (None, below) => below.to_owned(),
        };
        let mut items = map.items.iter().flatten();
        let key = match items.find(|item| item.path == file) {
            Some(item) => item.key.clone(),
            None => file,
        };
        Self::ConfigMap {
            name: map.name.clone(),
            key,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: serde_json::Value) -> Container {
        let mut value = value;
        value["name"] = json!("app");
        serde_json::from_value(value).expect("a container")
    }

    #[test]
    fn the_program_is_known_by_its_command_or_its_image() {
        for (given, expected) in [
            (
                json!({"command": ["/lameduck", "serve"], "args": ["--grace", "9s"]}),
                Some(vec!["--grace", "9s"]),
            ),
            (
                json!({"command": ["sh", "-c", "exec /app/lameduck serve --workers 3"]}),
                Some(vec!["--workers", "3"]),
            ),
            (
                json!({"image": "registry.example:5000/lameduck:1"}),
                Some(vec![]),
            ),
            (
                json!({"image": "resize:1", "args": ["serve", "--settle=2s"], "env": [{"name": "LAMEDUCK_EXEC", "value": "x"}]}),
                Some(vec!["--settle=2s"]),
            ),
            (json!({"image": "web:1"}), None),
            (json!({"image": "lameduck:1", "args": ["demo"]}), None),
        ] {
            let args = arguments(&container(given.clone()));
            let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect());
            assert_eq!(args, expected, "{given}");
        }
    }

    #[test]
    fn a_value_that_is_kept_elsewhere_is_hidden_unless_this_process_has_it_too() {
        let container = container(json!({
            "image": "lameduck:1",
            "env": [
                {"name": "LAMEDUCK_GRACE", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        }));
        let (_, hidden) = Invocation::of(&container, |_| None).expect("ours");
        assert_eq!(hidden, ["LAMEDUCK_GRACE"]);
        let (told, hidden) = Invocation::of(&container, |_| Some("7s".into())).expect("ours");
        assert!(hidden.is_empty());
        assert_eq!(told.env["LAMEDUCK_GRACE"], "7s");
    }

    #[test]
    fn the_settings_file_is_found_behind_mounts_items_and_sub_paths() {
        let map = |mount: serde_json::Value, items: serde_json::Value| {
            let container = container(json!({"volumeMounts": [mount]}));
            let spec = json!({"containers": [], "volumes": [{"name": "v", "configMap": {"name": "m", "items": items}}]});
            let spec = serde_json::from_value(spec).expect("a spec");
            match Place::of("/etc/lameduck/l.toml", &container, &spec) {
                Place::ConfigMap { name, key } => format!("{name}/{key}"),
                Place::Elsewhere(why) => why,
            }
        };
        let dir = json!({"name": "v", "mountPath": "/etc/lameduck"});
        let file = json!({"name": "v", "mountPath": "/etc/lameduck/l.toml", "subPath": "s"});
        let other = json!({"name": "v", "mountPath": "/etc/lame"});
        assert_eq!(map(dir.clone(), json!(null)), "m/l.toml");
        assert_eq!(map(dir, json!([{"key": "k", "path": "l.toml"}])), "m/k");
        assert_eq!(map(file, json!(null)), "m/s");
        assert!(map(other, json!(null)).ends_with("in the image"));
    }
}
