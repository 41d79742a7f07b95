//! Checks of the settings in combination. An impossible combination is an error, a doubtful one a warning; each
//! message says which setting, which value, by how much, and what to do.

mod hooks;
mod programs;
mod queues;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use lameduck::{api::Tokens, http::Tls, lifecycle::Budget};
use tokio::time::Instant;

use super::{
    Access, Checked, Config, Given, Hook, Problem, Problems, Source, declare,
    secret::SecretFile,
    settings::{ProcessSettings, ProcessValues},
    value::{Time, Value},
};

pub use programs::unstartable;

/// Shortest grace period that leaves time for a drain.
const SHORTEST_GRACE: Duration = Duration::from_secs(1);

/// The problems that the checks have found so far.
#[derive(Default)]
struct Findings {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Returns the configuration that was given, unless there is an error in it.
pub fn check(given: &Given) -> Result<Checked, Problems> {
    let mut found = Findings::default();
    let process = &given.settings.process;
    let values = process.in_force();
    let tls = found.tls(process);
    let access = found.access(process, &values);
    found.addresses(process, &values);
    found.storage(process, &values);
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
            (Some(cert), Some(key)) => {
                let unreadable = [&cert.value, &key.value].map(|file| file.read().err());
                if let [Some(error), _] = unreadable {
                    self.error(&cert.source, format!("tls-cert: {error}"));
                } else if let [_, Some(error)] = unreadable {
                    self.error(&key.source, format!("tls-key: {error}"));
                } else if let Err(error) = Tls::from_pem_files(&cert.value.0, &key.value.0) {
                    self.error(&cert.source, format!("tls-cert and tls-key: {error}"));
                }
                return Some((cert.value.0.clone(), key.value.0.clone()));
            }
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
            let kind = "a token of at least 16 characters of visible ASCII, as from `openssl rand -hex 32`";
            self.secrets(&tokens.source, "tokens", &tokens.value, kind, |line| {
                Tokens::is_fit(line).then_some(())
            });
            return Access::Tokens(tokens.value.0.clone());
        }
        if !values.allow_anonymous && !is_local(values.listen.as_str()) {
            self.error(
                &source_of(process.listen.as_ref()),
                format!(
                    "listen = \"{}\" is open to others, and nobody says who may use the API. Give tokens, a line each \
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

    /// Checks that a file of secrets holds at least one, and that each is well-formed. Secrets are never shown.
    fn secrets<T>(
        &mut self,
        source: &Source,
        name: &str,
        file: &SecretFile,
        kind: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let shown = file.shown();
        let text = match file.read() {
            Ok(text) => text,
            Err(error) => {
                self.error(source, format!("{name}: {error}"));
                return Vec::new();
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
        let mut secrets = Vec::new();
        for (number, line) in lines {
            match read(line) {
                Some(secret) => secrets.push(secret),
                None => self.error(
                    source,
                    format!("{name}: {shown}, line {number} is not {kind}"),
                ),
            }
        }
        secrets
    }

    fn addresses(&mut self, process: &ProcessSettings, values: &ProcessValues) {
        let any_port = values.listen.as_str().ends_with(":0");
        if values.listen == values.admin && !any_port {
            self.error(
                &source_of(process.admin.as_ref().or(process.listen.as_ref())),
                format!(
                    "listen and admin are both \"{}\": probes and metrics outlive the API and need an address of their \
                     own, for example admin = \"{}\"",
                    values.admin,
                    super::DEFAULT_ADMIN
                ),
            );
        }
    }

    /// Checks that all replicas share one queue, and that it is named only once.
    fn storage(&mut self, process: &ProcessSettings, values: &ProcessValues) {
        let shared = process.database.is_some() || process.database_file.is_some();
        if values.replicas.get() > 1 && !shared {
            self.error(
                &source_of(process.replicas.as_ref()),
                format!(
                    "replicas = {}, and the queue is embedded (data = {}): it serves one process, and each other replica \
                     would have a queue of its own that is lost with its pod. Share a PostgreSQL database (database, or \
                     database-file), or set replicas to 1 and raise workers",
                    values.replicas, values.data.display()
                ),
            );
        }
        if let Some(file) = &process.database_file
            && let Err(error) = crate::storage::database_in(&file.value)
        {
            self.error(&file.source, format!("database-file: {error}"));
        }
        if let (Some(database), Some(file)) = (&process.database, &process.database_file) {
            self.error(
                &file.source,
                format!(
                    "there is a database ({}) and a file with one (database-file = {}): leave one of them out",
                    database.source,
                    file.value.shown()
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

    /// Checks that the steps of a drain fit into the grace period.
    fn drain(&mut self, process: &ProcessSettings, values: &ProcessValues) {
        let grace = values.grace.0;
        if grace < SHORTEST_GRACE {
            self.error(
                &source_of(process.grace.as_ref()),
                format!(
                    "grace = {} is too short for any drain: every SIGTERM would end in a cut; give it {} or more",
                    values.grace,
                    Time(SHORTEST_GRACE)
                ),
            );
            return;
        }
        let reserved = values.teardown.0 + values.reporting.0 + values.stop_notice.0;
        if reserved * 2 > grace {
            let over = Time(reserved.saturating_sub(grace / 2));
            self.warning(
                &source_of(process.grace.as_ref()),
                format!(
                    "teardown + reporting + stop-notice = {} + {} + {} = {} is {over} more than half of grace = {}: \
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
        let (routing, waited) = (budget(values).0, values.settle.0 + values.quiet.0);
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
}

fn source_of<T>(given: Option<&declare::Given<T>>) -> Source {
    given.map_or(Source::Default, |given| given.source.clone())
}

/// Returns how much of the grace period a drain leaves for the end of routing, and for jobs.
fn budget(values: &ProcessValues) -> (Duration, Duration) {
    let t0 = Instant::now();
    let budget = Budget::new(t0, t0 + values.grace.0, &values.drain());
    (budget.route_end - t0, budget.hard - t0)
}

/// Rounds to a tenth of a second: nobody sets a time more precisely.
fn rounded(time: Duration) -> Time {
    let tenths = (time.as_secs_f64() * 10.0).round() / 10.0;
    Time(Duration::from_secs_f64(tenths))
}

/// Whether only this machine can reach an address.
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
