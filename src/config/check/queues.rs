//! Checks of queues: each has exactly one handler, and enough time for its jobs.

use std::time::Duration;

use lameduck::jobs::{handler::http::Secret, job::QueueName};

use super::{
    super::{
        DEFAULT_QUEUE, Given, Handler, Queue, Section, Source,
        settings::{ProcessValues, QueueSettings},
        value::Time,
    },
    Findings, budget, rounded, source_of,
};

/// The same limits as for submitters (docs/api.md).
const LONGEST_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3_600);
const MOST_ATTEMPTS: u32 = 100;

impl Findings {
    pub(super) fn queues(&mut self, given: &Given, values: &ProcessValues) -> Vec<Queue> {
        if given.queues.is_empty() {
            let top = &given.settings.queue;
            if top.exec.is_none() && top.http.is_none() {
                self.error(&Source::Default, no_handler());
                return Vec::new();
            }
            let queue = DEFAULT_QUEUE.parse().ok();
            let queue = queue.and_then(|name| self.queue(name, &Source::Default, top, values));
            return queue.into_iter().collect();
        }
        self.overridden(given);
        let queues = given.queues.iter();
        queues
            .filter_map(|(name, place, queue)| self.queue(name.clone(), place, queue, values))
            .collect()
    }

    /// Warns of flags and variables for all queues that every queue overrides.
    fn overridden(&mut self, given: &Given) {
        for entry in Section::entries(&given.settings.queue) {
            let by_hand = matches!(entry.source, Source::Flag(_) | Source::Variable(_));
            let heeded = given.queues.iter().any(|(_, _, queue)| {
                let entries = Section::entries(queue);
                entries
                    .iter()
                    .any(|own| own.name == entry.name && own.source == entry.source)
            });
            if by_hand && !heeded {
                self.warning(
                    &entry.source,
                    "it holds for queues that do not say otherwise, and every queue of the file does; change it there",
                );
            }
        }
    }

    fn queue(
        &mut self,
        name: QueueName,
        place: &Source,
        queue: &QueueSettings,
        process: &ProcessValues,
    ) -> Option<Queue> {
        let values = queue.in_force();
        let mut signing = Vec::new();
        if let Some(secrets) = &queue.http_secrets {
            signing = self.secrets(
                &secrets.source,
                "http-secrets",
                &secrets.value,
                "a secret: 'whsec_' and 24 to 64 bytes in base64, as of: echo whsec_$(openssl rand -base64 32)",
                |line| line.parse::<Secret>().ok(),
            );
            if queue.http.is_none() {
                self.warning(
                    &secrets.source,
                    format!("http-secrets says nothing for queue '{name}', which has no HTTP endpoint; take it out, or set http"),
                );
            }
        }
        if values.backoff_first.0 > values.backoff_max.0 {
            let by = queue.backoff_first.as_ref().or(queue.backoff_max.as_ref());
            self.error(
                &source_of(by),
                format!(
                    "backoff-first = {} is longer than backoff-max = {} for queue '{name}'; lower the first, or raise the other",
                    values.backoff_first, values.backoff_max
                ),
            );
        }
        if let Some(attempts) = queue.max_attempts.as_ref()
            && attempts.value.get() > MOST_ATTEMPTS
        {
            self.error(
                &attempts.source,
                format!(
                    "max-attempts = {} of queue '{name}': there are {MOST_ATTEMPTS} at most",
                    attempts.value
                ),
            );
        }
        self.timeout(&name, queue, process);
        let handler = match (&queue.exec, &queue.http) {
            (Some(exec), None) => Handler::Exec(exec.value.clone()),
            (None, Some(http)) => Handler::Http {
                url: http.value.clone(),
                secrets: signing,
            },
            (Some(exec), Some(http)) => {
                self.error(
                    &http.source,
                    format!(
                        "queue '{name}' has two handlers, exec ({}) and http ({}); take one out",
                        exec.source, http.source
                    ),
                );
                return None;
            }
            (None, None) => {
                self.error(
                    place,
                    format!(
                        "queue '{name}' has no handler: its jobs would be taken in and never run; give it \
                         exec = \"COMMAND\" or http = \"URL\""
                    ),
                );
                return None;
            }
        };
        Some(Queue {
            name,
            handler,
            values,
        })
    }

    /// Checks the timeout if it was given: the default is only a bound for runs that hang.
    fn timeout(&mut self, name: &QueueName, queue: &QueueSettings, process: &ProcessValues) {
        let Some(timeout) = &queue.timeout else {
            return;
        };
        if timeout.value.0.is_zero() || timeout.value.0 > LONGEST_TIMEOUT {
            self.error(
                &timeout.source,
                format!(
                    "timeout = {} of queue '{name}': a run takes longer than nothing, and may take {} at most",
                    timeout.value,
                    Time(LONGEST_TIMEOUT)
                ),
            );
            return;
        }
        let left = budget(process).1;
        if timeout.value.0 <= left {
            return;
        }
        let short = timeout.value.0 - left;
        self.warning(
            &timeout.source,
            format!(
                "timeout = {} of queue '{name}' is {} longer than a drain leaves to its jobs ({}: grace = {}, less margin, \
                 teardown and reporting): a job that takes so long is given back by every rollout and begins anew; \
                 raise grace (and terminationGracePeriodSeconds) to {}, or lower the timeout",
                timeout.value,
                rounded(short),
                rounded(left),
                process.grace,
                rounded(process.grace.0 + short)
            ),
        );
    }
}

fn no_handler() -> String {
    let own = std::env::args_os().next();
    let own = own.map_or_else(
        || "lameduck".into(),
        |own| own.to_string_lossy().into_owned(),
    );
    format!(
        "no handler: jobs would be taken in and never run. Give one, for example\n\
         \n    lameduck serve --exec 'python3 resize.py'\n\n\
         or LAMEDUCK_EXEC='python3 resize.py', or exec = [\"python3\", \"resize.py\"] in the configuration \
         file; or an HTTP endpoint, by --http http://resize:8000/jobs. To try things out: \
         lameduck serve --exec '{own} demo --duration 3s'"
    )
}
