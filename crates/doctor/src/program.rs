//! What the container's program was told: its command line, its environment, its settings file.
//!
//! What the settings mean is the program's own business: whoever asks brings a function that reads them
//! ([`Reader`]). Here is only where they are to be found in a Pod.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::seen::NotSeen;
use lameduck_lifecycle::DrainSettings;

/// Reads what the program was told; the error says what is wrong with it.
pub type Reader = fn(&Invocation) -> Result<Program, String>;

/// What the program was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invocation {
    /// The words behind `serve`.
    pub args: Vec<String>,
    /// Its environment, as far as it is known.
    pub env: BTreeMap<String, String>,
    /// The text of its settings file, if there is one.
    pub file: Option<String>,
}

/// What that means.
#[derive(Clone, Debug)]
pub struct Program {
    /// The drain.
    pub drain: DrainSettings,
    /// The directory of the embedded database, if that is where the jobs are and a directory was named.
    pub data: Option<PathBuf>,
    /// Jobs are kept by one process on one disk.
    pub embedded: bool,
}

/// What is known of it.
#[derive(Clone, Debug)]
pub(super) enum Settings {
    Read(Program),
    /// Another program, which uses the library: its settings are in its code.
    Foreign,
    /// It would not start with these.
    Invalid(String),
    /// Why they could not be read.
    Unread(NotSeen),
}

/// Where the settings file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    ConfigMap {
        name: String,
        key: String,
    },
    /// In the image, in a Secret, …
    Elsewhere(String),
}

/// The words of the command line, through a shell if there is one in between.
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

/// What a shell is given to run: `sh -c 'exec /lameduck serve'`.
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

/// The words behind `lameduck serve`; `None` where that is not what is run.
fn arguments(container: &Container) -> Option<Vec<String>> {
    let words = words(container);
    let serve = words
        .windows(2)
        .position(|pair| pair[0].rsplit('/').next() == Some("lameduck") && pair[1] == "serve");
    if let Some(serve) = serve {
        return Some(words[serve + 2..].to_vec());
    }
    // By the image's own entry point.
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

/// It runs `lameduck serve`.
pub(super) fn is_lameduck(container: &Container) -> bool {
    arguments(container).is_some()
}

// === impl Invocation ===

impl Invocation {
    /// What this container's program is told; `None` where it is another program. The names of those
    /// variables of ours whose values are kept elsewhere come with it; `local` knows some of them, where this
    /// process has the same environment.
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

    /// The path of the settings file.
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
    /// Where this path of the container comes from.
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
