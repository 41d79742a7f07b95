//! What settings mean together: what is impossible is an error, what is doubtful is a warning, and each says
//! which setting, which value, by how much, and what to do.

use std::{
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use lameduck::{jobs::job::QueueName, lifecycle::Budget};
use tokio::time::Instant;

use super::{
    Access, Checked, CommandLine, Config, DEFAULT_QUEUE, Given, Handler, Hook, Queue, Task, Time,
    declare::{self, Source},
    problem::{Problem, Problems},
    settings::{HookSettings, ProcessSettings, ProcessValues, QueueSettings},
};

/// What is found on the way.
#[derive(Default)]
struct Findings {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// The configuration that was given, unless there is an error in it.
pub fn check(given: &Given) -> Result<Checked, Problems> {
    let mut found = Findings::default();
    let process = &given.settings.process;
    let values = process.in_force();
    let tls = found.tls(process);
    let access = found.access(process, &values);
    found.addresses(process, &values);
    found.limits(process, &values);
    found.drain(process, &values);
    let queues = found.queues(given, &values);
    let hooks: Vec<Hook> = given
        .hooks
        .iter()
        .filter_map(|(place, hook)| found.hook(place, hook, &values))
        .collect();
    if !found.errors.is_empty() {
        return Err(Problems(found.errors));
    }
    Ok(Checked {
        config: Config {
            queues,
            drain: values.drain(),
            process: values,
            tls,
            access,
            hooks,
        },
        warnings: found.warnings,
    })
}

// === impl Findings ===

impl Findings {
    fn error(&mut self, source: &Source, text: impl Into<String>) {
        self.errors.push(Problem::new(source, text));
    }

    fn warning(&mut self, source: &Source, text: impl Into<String>) {
        self.warnings.push(Problem::new(source, text));
    }

    fn tls(&mut self, process: &ProcessSettings) -> Option<(PathBuf, PathBuf)> {
        let half = |there, missing| {
            format!(
                "'{missing}' is missing beside '{there}': TLS takes both a certificate (tls-cert) and its key (tls-key)"
            )
        };
        match (&process.tls_cert, &process.tls_key) {
            (Some(cert), Some(key)) => return Some((cert.value.clone(), key.value.clone())),
            (None, None) => {}
            (Some(cert), None) => self.error(&cert.source, half("tls-cert", "tls-key")),
            (None, Some(key)) => self.error(&key.source, half("tls-key", "tls-cert")),
        }
        None
    }

    fn access(&mut self, process: &ProcessSettings, values: &ProcessValues) -> Access {
        if let Some(tokens) = &process.tokens {
            if let Some(allow) = process.allow_anonymous.as_ref().filter(|allow| allow.value) {
                self.warning(
                    &allow.source,
                    format!(
                        "allow-anonymous = true says nothing while there are tokens ({}): only who has one of them \
                         may use the API; take one of the two out",
                        tokens.source
                    ),
                );
            }
            self.secrets(&tokens.source, "tokens", &tokens.value, "a token", |_| true);
            return Access::Tokens(tokens.value.clone());
        }
        if !values.allow_anonymous && !is_local(&values.listen) {
            self.error(
                &source_of(process.listen.as_ref()),
                format!(
                    "listen = {:?} is open to others, and nobody says who may use the API. Give tokens, a line each \
                     in a file:\n\
                     \n    head -c 32 /dev/urandom | base64 > tokens && lameduck serve --tokens tokens …\n\n\
                     (or LAMEDUCK_TOKENS, or tokens = \"FILE\"), listen on 127.0.0.1, or let everybody in who reaches \
                     it: --allow-anonymous (or LAMEDUCK_ALLOW_ANONYMOUS=true, or allow-anonymous = true)",
                    values.listen
                ),
            );
        }
        Access::Anonymous
    }

    /// A file of secrets has some, and each is what it should be. None is ever shown.
    fn secrets(
        &mut self,
        source: &Source,
        name: &str,
        file: &Path,
        kind: &str,
        good: impl Fn(&str) -> bool,
    ) {
        let shown = file.display();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                return self.error(source, format!("{name}: cannot read {shown}: {error}"));
            }
        };
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .peekable();
        if lines.peek().is_none() {
            self.error(
                source,
                format!("{name}: {shown} is empty; write {kind} on a line of it"),
            );
        }
        for (number, _) in lines.filter(|(_, line)| !good(line)) {
            self.error(
                source,
                format!("{name}: {shown}, line {number} is not {kind}"),
            );
        }
    }

    fn addresses(&mut self, process: &ProcessSettings, values: &ProcessValues) {
        let any_port = values.listen.ends_with(":0");
        if values.listen == values.admin && !any_port {
            self.error(
                &source_of(process.admin.as_ref().or(process.listen.as_ref())),
                format!(
                    "listen and admin are both {:?}: probes and metrics outlive the API and need an address of their \
                     own, for example admin = {:?}",
                    values.admin,
                    super::DEFAULT_ADMIN
                ),
            );
        }
    }

    fn limits(&mut self, process: &ProcessSettings, values: &ProcessValues) {
        if values.max_body.0 == 0 {
            self.error(
                &source_of(process.max_body.as_ref()),
                "max-body = 0 lets no job in; give a size as in 1MiB",
            );
        }
        if let Some(disk) = &process.max_disk
            && disk.value.0 < values.max_body.0
        {
            self.warning(
                &disk.source,
                format!(
                    "max-disk = {} is less than one payload may have (max-body = {}): jobs will be refused for want of \
                     space; raise max-disk, or lower max-body",
                    disk.value, values.max_body
                ),
            );
        }
    }

    /// Whether a drain's steps fit into the grace period.
    fn drain(&mut self, process: &ProcessSettings, values: &ProcessValues) {
        let grace = values.grace.0;
        let reserved = values.teardown.0 + values.reporting.0 + values.stop_notice.0;
        if reserved * 2 >= grace {
            let over = Time(reserved.saturating_sub(grace / 2));
            self.warning(
                &source_of(process.grace.as_ref()),
                format!(
                    "teardown + reporting + stop-notice = {} + {} + {} = {} is half of grace = {} or more, by {over}: \
                     they are shortened so that jobs and requests keep half of it; lower them, or raise grace (and \
                     terminationGracePeriodSeconds) above {}",
                    values.teardown,
                    values.reporting,
                    values.stop_notice,
                    Time(reserved),
                    values.grace,
                    Time(reserved * 2)
                ),
            );
        }
        let (routing, waited) = (self::budget(values).0, values.settle.0 + values.quiet.0);
        if waited > routing {
            let by = process.quiet.as_ref().or(process.settle.as_ref());
            let source =
                by.map_or_else(|| source_of(process.grace.as_ref()), |by| by.source.clone());
            self.warning(
                &source,
                format!(
                    "settle + quiet = {} + {} = {} is {} longer than the lame-duck share leaves them ({}): clients may be \
                     asked to leave while somebody still routes here; lower them, or raise grace or lame-duck-share",
                    values.settle,
                    values.quiet,
                    Time(waited),
                    rounded(waited - routing),
                    rounded(routing)
                ),
            );
        }
        if values.margin.0 * 10 > grace
            && let Some(margin) = &process.margin
        {
            self.warning(
                &margin.source,
                format!(
                    "margin = {} is more than a tenth of grace = {} and is shortened to {}; lower it, or raise grace",
                    margin.value,
                    values.grace,
                    Time(grace / 10)
                ),
            );
        }
    }

    fn queues(&mut self, given: &Given, values: &ProcessValues) -> Vec<Queue> {
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

    /// What was said for all queues by a flag, and no queue heeds.
    fn overridden(&mut self, given: &Given) {
        for entry in declare::Section::entries(&given.settings.queue) {
            let by_hand = matches!(entry.source, Source::Flag(_) | Source::Variable(_));
            let heeded = given.queues.iter().any(|(_, _, queue)| {
                let entries = declare::Section::entries(queue);
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
        if let Some(secrets) = &queue.http_secrets {
            let good = |line: &str| line.starts_with("whsec_");
            self.secrets(
                &secrets.source,
                "http-secrets",
                &secrets.value,
                "a secret as in whsec_…",
                good,
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
        self.timeout(&name, queue, process);
        let handler = match (&queue.exec, &queue.http) {
            (Some(exec), None) => Handler::Exec(exec.value.clone()),
            (None, Some(http)) => Handler::Http {
                url: http.value.0.clone(),
                secrets: values.http_secrets.clone(),
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

    /// Only where somebody chose it: the default is a bound for runs that hang.
    fn timeout(&mut self, name: &QueueName, queue: &QueueSettings, process: &ProcessValues) {
        let Some(timeout) = &queue.timeout else {
            return;
        };
        let left = self::budget(process).1;
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

    fn hook(
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
            (Some(run), None, None) => Task::Run(CommandLine(run.value.0.clone())),
            (None, Some(url), None) => {
                if url.value.0.scheme() != "http" {
                    self.error(
                        &url.source,
                        format!("url of hook '{shown}' is not plain http; for https run a command: run = \"curl …\""),
                    );
                }
                let method = hook.in_force().method;
                match method.parse() {
                    Ok(method) => Task::Request {
                        method,
                        url: url.value.0.clone(),
                    },
                    Err(_) => {
                        let source = source_of(hook.method.as_ref());
                        self.error(
                            &source,
                            format!("method = {method:?} of hook '{shown}' is no HTTP method"),
                        );
                        return None;
                    }
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
                Task::Remove(remove.value.clone())
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
        (self.errors.len() == before).then(|| Hook {
            name: shown.clone(),
            task,
            timeout: hook.in_force().timeout,
        })
    }
}

fn source_of<T>(given: Option<&declare::Given<T>>) -> Source {
    given.map_or(Source::Default, |given| given.source.clone())
}

/// What a drain of the whole grace period leaves to the end of routing, and to jobs.
fn budget(values: &ProcessValues) -> (Duration, Duration) {
    let t0 = Instant::now();
    let budget = Budget::new(t0, t0 + values.grace.0, &values.drain());
    (budget.route_end - t0, budget.hard - t0)
}

/// To a tenth of a second: nobody sets more.
fn rounded(time: Duration) -> Time {
    let tenths = (time.as_secs_f64() * 10.0).round() / 10.0;
    Time(Duration::from_secs_f64(tenths))
}

/// Nobody else's machine reaches it.
fn is_local(address: &str) -> bool {
    if address.starts_with("unix:") {
        return true;
    }
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => address
            .rsplit_once(':')
            .is_some_and(|(host, _)| host == "localhost"),
    }
}

/// A slip of the pen must not cost a file system, or the queue.
fn may_be_removed(path: &Path, data: &Path) -> Result<(), &'static str> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
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
    if absolute(data).starts_with(absolute(path)) {
        return Err("the queue's data is in it (setting 'data')");
    }
    Ok(())
}

fn no_handler() -> String {
    let own = std::env::args().next().unwrap_or_else(|| "lameduck".into());
    format!(
        "no handler: jobs would be taken in and never run. Give one, for example\n\
         \n    lameduck serve --exec 'python3 resize.py'\n\n\
         or LAMEDUCK_EXEC='python3 resize.py', or exec = [\"python3\", \"resize.py\"] in the configuration \
         file; or an HTTP endpoint, by --http http://resize:8000/jobs. To try things out: \
         lameduck serve --exec '{own} demo --duration 3s'"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Document, Settings};
    use super::*;

    fn checked(text: &str) -> Result<Checked, Problems> {
        let (document, problems) = Document::read("a.toml", text);
        assert_eq!(problems, [], "{text}");
        check(&Given::of(Settings::default(), document))
    }

    fn config(text: &str) -> Config {
        checked(text).unwrap().config
    }

    #[test]
    fn without_tables_there_is_one_queue_and_the_rest_by_default() {
        let config = config("exec = 'cat -n'\nworkers = 3\ngrace = '1m'");
        let [queue] = &config.queues[..] else {
            panic!()
        };
        assert_eq!(queue.name.as_str(), "default");
        assert!(matches!(&queue.handler, Handler::Exec(line) if line.0 == ["cat", "-n"]));
        assert_eq!(queue.values.workers.get(), 3);
        assert_eq!(queue.values.max_attempts.get(), 5);
        assert_eq!(config.drain.grace, Duration::from_secs(60));
        assert_eq!(config.drain.quiet, Duration::from_secs(2));
    }

    #[test]
    fn a_queue_says_otherwise_or_takes_what_is_said_for_all() {
        let config = config(
            "exec = 'cat'\nworkers = 3\n[queues.mail]\nworkers = 7\n[queues.resize]\nhttp = 'http://resize/'",
        );
        let [mail, resize] = &config.queues[..] else {
            panic!()
        };
        assert_eq!(
            (mail.values.workers.get(), resize.values.workers.get()),
            (7, 3)
        );
        assert!(matches!(mail.handler, Handler::Exec(_)));
        assert!(matches!(resize.handler, Handler::Http { .. }), "not both");
    }

    #[test]
    fn secrets_said_for_all_sign_for_every_queue_with_an_endpoint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let path = file.path().display();
        let text = format!(
            "http-secrets = '{path}'\n[queues.a]\nhttp = 'http://a/'\n[queues.b]\nexec = 'b'"
        );
        let Checked { config, warnings } = checked(&text).unwrap();
        let Handler::Http { secrets, .. } = &config.queues[0].handler else {
            panic!()
        };
        assert_eq!(secrets.as_deref(), Some(file.path()));
        assert_eq!(warnings, []);
    }

    #[test]
    fn what_is_impossible_is_refused_with_its_place_and_a_remedy() {
        for (text, words) in [
            ("", "--exec"),
            ("", "LAMEDUCK_EXEC"),
            (
                "exec = 'a'\nhttp = 'http://b'",
                "a.toml, line 2, column 8: queue 'default' has two handlers",
            ),
            (
                "[queues.mail]\nworkers = 3",
                "line 1, column 1: queue 'mail' has no handler",
            ),
            (
                "exec = 'a'\ntls-key = 'k'",
                "line 2, column 11: 'tls-cert' is missing",
            ),
            (
                "exec = 'a'\nlisten = '127.0.0.1:1'\nadmin = '127.0.0.1:1'",
                "listen and admin are both",
            ),
            ("exec = 'a'\nlisten = '0.0.0.0:1'", "--tokens tokens"),
            ("exec = 'a'\nlisten = '0.0.0.0:1'", "allow-anonymous = true"),
            (
                "exec = 'a'\ntokens = '/nowhere/t'",
                "tokens: cannot read /nowhere/t",
            ),
            ("exec = 'a'\nmax-body = 0", "max-body = 0"),
            (
                "exec = 'a'\nbackoff-first = '1h'",
                "backoff-first = 1h is longer than backoff-max = 5m",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nrun = 'x'",
                "line 2, column 1: a teardown hook has no name",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'",
                "hook 'x' does exactly one thing",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nrun = 'y'\nremove = '/tmp/z'",
                "exactly one thing",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nurl = 'https://y'",
                "plain http",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '/'",
                "refused",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '/tmp'",
                "refused",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '.'",
                "refused",
            ),
            (
                "exec = 'a'\n[[teardown-hook]]\nname = 'x'\nremove = '/a/b/../..'",
                "'..'",
            ),
            (
                "exec = 'a'\ndata = '/d/e/f'\n[[teardown-hook]]\nname = 'x'\nremove = '/d/e'",
                "the queue's data",
            ),
        ] {
            let said = checked(text).map(|_| ()).unwrap_err().to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_doubtful_is_said_with_by_how_much() {
        for (text, words) in [
            (
                "timeout = '40s'",
                "15s longer than a drain leaves to its jobs (25s",
            ),
            ("timeout = '40s'", "to 45s"),
            ("grace = '18s'", "half of grace = 18s or more, by 0s"),
            (
                "quiet = '20s'",
                "settle + quiet = 1s + 20s = 21s is 11.3s longer",
            ),
            ("margin = '4s'", "shortened to 3s"),
            (
                "max-disk = '1kB'",
                "max-disk = 1000 is less than one payload",
            ),
            ("http-secrets = 'SECRETS'", "http-secrets says nothing"),
            (
                "[[teardown-hook]]\nname = 'x'\nrun = 'y'\ntimeout = '5s'",
                "2s longer than what is kept",
            ),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(
                file.path(),
                "# old\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
            )
            .unwrap();
            let text = text.replace("SECRETS", file.path().to_str().unwrap());
            let warnings = checked(&format!("exec = 'a'\n{text}")).unwrap().warnings;
            let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            assert!(said.join("\n").contains(words), "{text}: {said:?}");
        }
        assert_eq!(
            checked("exec = 'a'").unwrap().warnings,
            [],
            "the defaults fit"
        );
    }

    #[test]
    fn a_secret_is_never_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "swordfish\n").unwrap();
        let path = file.path().display();
        let text = format!("http = 'http://a/'\nhttp-secrets = '{path}'");
        let said = checked(&text).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("line 1 is not a secret"), "{said}");
        assert!(!said.contains("swordfish"), "{said}");
    }

    #[test]
    fn who_is_reached_from_this_machine_only() {
        for address in ["127.0.0.1:1", "[::1]:1", "unix:/a", "localhost:1"] {
            assert!(is_local(address), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "jobs.example:1"] {
            assert!(!is_local(address), "{address}");
        }
    }
}
