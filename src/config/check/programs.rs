//! Commands that can't be started on this machine, as far as their files show.
//!
//! They are no errors: configurations are also checked where the programs are missing, and a program may come later.

use std::fmt;

use lameduck::jobs::handler::exec::Exec;

use super::super::{CommandLine, Config, Handler, Task};

/// A command that can't be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unstartable {
    /// The queue or the hook that the command belongs to.
    of: Owner,
    /// The reason, and what to do.
    why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Queue(String),
    Hook(String),
}

/// Looks at the command of each queue and each teardown hook.
pub fn unstartable(config: &Config) -> Vec<Unstartable> {
    let of_queues = config
        .queues
        .iter()
        .filter_map(|queue| match &queue.handler {
            Handler::Exec(command) => Some((Owner::Queue(queue.name.to_string()), command)),
            Handler::Http { .. } => None,
        });
    let of_hooks = config.hooks.iter().filter_map(|hook| match &hook.task {
        Task::Run(command) => Some((Owner::Hook(hook.name.clone()), command)),
        Task::Request { .. } | Task::Remove { .. } => None,
    });
    let commands: Vec<(Owner, &CommandLine)> = of_queues.chain(of_hooks).collect();
    let look = |(of, command): (Owner, &CommandLine)| {
        let why = Exec::new(command.0.clone()).missing()?;
        Some(Unstartable { of, why })
    };
    commands.into_iter().filter_map(look).collect()
}

impl fmt::Display for Unstartable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = &self.why;
        match &self.of {
            Owner::Queue(name) => write!(
                f,
                "the command of queue '{name}' (setting 'exec') can't be started here, and its jobs wait until it can: {why}"
            ),
            Owner::Hook(name) => write!(
                f,
                "the command of teardown hook '{name}' (setting 'run') can't be started here, and the hook will fail: {why}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{Document, Given, Settings},
        *,
    };

    #[test]
    fn the_commands_of_queues_and_hooks_are_looked_at() {
        let text = "[queues.good]\nexec = 'sh'\n[queues.bad]\nexec = '/nowhere/tool'\n\
                    [[teardown-hook]]\nname = 'broker'\nrun = 'no-such-command --now'\n";
        let (document, problems) = Document::read("a.toml", text);
        assert_eq!(problems, []);
        let checked = super::super::check(&Given::of(Settings::default(), document)).unwrap();

        let said: Vec<String> = unstartable(&checked.config)
            .iter()
            .map(ToString::to_string)
            .collect();

        let [queue, hook] = &said[..] else {
            panic!("{said:?}")
        };
        assert!(
            queue.contains("queue 'bad'") && queue.contains("/nowhere/tool"),
            "{queue}"
        );
        assert!(
            hook.contains("hook 'broker'") && hook.contains("no-such-command"),
            "{hook}"
        );
    }
}
