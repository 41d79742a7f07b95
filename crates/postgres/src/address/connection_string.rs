//! Connection strings, as libpq reads them.
//!
//! ```text
//!   postgres://user:password@host:5432/database?sslmode=verify-full
//!   postgres://user:password@first:5432,second:5433/database         several hosts, of which the writable one is used
//!   postgres://user@/database?host=/var/run/postgresql               a socket's folder
//!   host=db user=app password='two words' dbname=jobs                words
//! ```
//!
//! Every string that libpq accepts is accepted, or refused by name with what to write instead. No error repeats any of
//! the text: if a character of the password should have been encoded, any part of the text may belong to the password.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// A parsed connection string. It is displayed without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The values by libpq's names.
    parameters: BTreeMap<&'static str, String>,
}

/// The reason why a text is not a connection string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidConnectionString {
    /// It is neither a URL nor a list of parameters.
    Neither,
    /// It is a URL of another scheme.
    Scheme,
    /// A character that has to be percent-encoded is not.
    Encoding,
    /// A port is not a number, or there are not as many as hosts.
    Port,
    /// It names no host.
    NoHost,
    /// It has a parameter that libpq does not know.
    UnknownParameter,
    /// It has a parameter of libpq's that is not supported here.
    Unsupported {
        /// The name.
        name: &'static str,
        /// The replacement to write.
        instead: &'static str,
    },
    /// A parameter has a value that it can't have.
    Value {
        /// The parameter.
        name: &'static str,
        /// The values that are possible.
        expected: &'static str,
    },
    /// A quote is not closed, or a word has no `=`.
    Words,
    /// Its parameters are not separated as libpq separates them.
    Separator,
}

use InvalidConnectionString::{
    Encoding, Neither, NoHost, Port, Scheme, Separator, UnknownParameter, Unsupported, Value, Words,
};

/// The supported parameters, each with its possible values if there are few.
const KNOWN: [(&str, &[&str], &str); 26] = [
    ("user", &[], ""),
    ("password", &[], ""),
    ("dbname", &[], ""),
    ("host", &[], ""),
    ("hostaddr", &[], ""),
    ("port", &[], ""),
    ("options", &[], ""),
    ("application_name", &[], ""),
    ("fallback_application_name", &[], ""),
    ("sslrootcert", &[], ""),
    (
        "connect_timeout",
        NUMBER,
        "a whole number of seconds, as in 10",
    ),
    (
        "tcp_user_timeout",
        NUMBER,
        "a whole number of milliseconds, as in 10000",
    ),
    ("keepalives", NUMBER, "0 or 1"),
    (
        "keepalives_idle",
        NUMBER,
        "a whole number of seconds, as in 30",
    ),
    (
        "keepalives_interval",
        NUMBER,
        "a whole number of seconds, as in 10",
    ),
    ("keepalives_count", NUMBER, "a whole number, as in 2"),
    (
        "sslmode",
        &["disable", "prefer", "require", "verify-full"],
        "disable, prefer, require or verify-full",
    ),
    (
        "sslnegotiation",
        &["postgres", "direct"],
        "postgres or direct",
    ),
    ("sslsni", &["1"], "1"),
    ("sslcompression", &["0"], "0"),
    ("gssencmode", &["disable", "prefer"], "disable"),
    (
        "channel_binding",
        &["disable", "prefer", "require"],
        "disable, prefer or require",
    ),
    (
        "target_session_attrs",
        &["any", "read-write"],
        "read-write, because a queue is written to",
    ),
    (
        "load_balance_hosts",
        &["disable", "random"],
        "disable or random",
    ),
    (
        "client_encoding",
        &["UTF8", "utf8", "UTF-8", "utf-8", "auto"],
        "UTF8",
    ),
    ("replication", &["false", "off", "no", "0"], "false"),
];

/// Stands for whole numbers among the possible values.
const NUMBER: &[&str] = &["0"];

/// Values of libpq's that are not supported, with what to write instead.
const INSTEAD: [(&str, &str, &str); 4] = [
    (
        "sslmode",
        "allow",
        "sslmode=prefer, or sslmode=disable for none at all",
    ),
    (
        "sslmode",
        "verify-ca",
        "sslmode=verify-full, with the host's name in the certificate",
    ),
    (
        "target_session_attrs",
        "primary",
        "target_session_attrs=read-write",
    ),
    (
        "target_session_attrs",
        "prefer-standby",
        "target_session_attrs=read-write",
    ),
];

/// Parameters of libpq's that are not supported, with what to write instead.
const REFUSED: [(&str, &str); 17] = [
    (
        "passfile",
        "the password into the URL, or the whole URL into a file (setting 'database-file')",
    ),
    ("service", "host, port, database and user themselves"),
    ("servicefile", "host, port, database and user themselves"),
    (
        "sslcert",
        "a user and a password: certificates of clients are not supported",
    ),
    (
        "sslkey",
        "a user and a password: certificates of clients are not supported",
    ),
    (
        "sslpassword",
        "a user and a password: certificates of clients are not supported",
    ),
    (
        "sslcertmode",
        "a user and a password: certificates of clients are not supported",
    ),
    (
        "sslcrl",
        "sslrootcert alone: lists of revoked certificates are not supported",
    ),
    (
        "sslcrldir",
        "sslrootcert alone: lists of revoked certificates are not supported",
    ),
    (
        "ssl_min_protocol_version",
        "sslmode=verify-full alone: it is TLS 1.2 at least",
    ),
    ("ssl_max_protocol_version", "sslmode=verify-full alone"),
    ("requiressl", "sslmode=require"),
    ("require_auth", "channel_binding=require"),
    (
        "requirepeer",
        "the socket's folder alone, as in host=/var/run/postgresql",
    ),
    (
        "krbsrvname",
        "a user and a password: Kerberos is not supported",
    ),
    ("gsslib", "a user and a password: Kerberos is not supported"),
    (
        "gssdelegation",
        "a user and a password: Kerberos is not supported",
    ),
];

/// The characters that are percent-encoded in a URL that is shown.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PLAIN_VALUE: &AsciiSet = &PLAIN.remove(b'/').remove(b',').remove(b':');

// === impl ConnectionString ===

impl ConnectionString {
    /// Returns the value of a parameter, by libpq's name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Whether it holds a password.
    pub fn has_password(&self) -> bool {
        self.parameters.contains_key("password")
    }

    /// Returns the parameters as `name='value'`, which tokio-postgres reads as well.
    pub(super) fn words(&self, skip: &[&str]) -> String {
        let words = self
            .parameters
            .iter()
            .filter(|(name, _)| !skip.contains(name));
        let words: Vec<String> = words
            .map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                format!("{name}='{value}'")
            })
            .collect();
        words.join(" ")
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), InvalidConnectionString> {
        let known = KNOWN.iter().find(|(known, ..)| *known == name);
        let Some(&(name, values, expected)) = known else {
            let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
            return Err(
                refused.map_or(UnknownParameter, |&(name, instead)| Unsupported {
                    name,
                    instead,
                }),
            );
        };
        let instead = INSTEAD
            .iter()
            .find(|(of, word, _)| *of == name && *word == value);
        if let Some(&(_, _, instead)) = instead {
            return Err(Unsupported { name, instead });
        }
        let fits = match values {
            [] => true,
            NUMBER => {
                !value.is_empty() && value.len() < 10 && value.bytes().all(|b| b.is_ascii_digit())
            }
            words => words.contains(&&*value),
        };
        if !fits {
            return Err(Value { name, expected });
        }
        self.parameters.insert(name, value);
        Ok(())
    }

    fn of_url(rest: &str) -> Result<Self, InvalidConnectionString> {
        let mut this = Self {
            parameters: BTreeMap::new(),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if rest.starts_with('#') {
            return Err(Encoding);
        }
        let (user, hosts) = match authority.split_once('@') {
            None => (None, authority),
            // libpq splits at the first one, and then connects to a host that nobody meant.
            Some((_, hosts)) if hosts.contains('@') => return Err(Encoding),
            Some((user, hosts)) => (Some(user), hosts),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.strip_prefix('/').unwrap_or_default();
        // A slash or a question mark in the password ends the part before the host.
        if path.contains(['@', '/', ':'])
            || (user.is_none() && query.contains('@') && hosts.contains(':'))
        {
            return Err(Encoding);
        }
        // ADO.NET writes parameters like this, and so does anybody who forgets the '?'. The rest may be a
        // password, and would be shown as the database's name.
        if [
            user.and_then(|user| user.split(':').next()),
            Some(hosts),
            Some(path),
        ]
        .into_iter()
        .flatten()
        .any(|part| part.contains([';', '&', '=']))
        {
            return Err(Separator);
        }
        if let Some(user) = user {
            let (user, password) = match user.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (user, None),
            };
            for (name, value) in [("user", Some(user)), ("password", password)] {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    this.set(name, decoded(value)?)?;
                }
            }
        }
        this.set_hosts(hosts)?;
        if !path.is_empty() {
            this.set("dbname", decoded(path)?)?;
        }
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(UnknownParameter)?;
            match (&*decoded(name)?, &*decoded(value)?) {
                // The JDBC spelling, which libpq accepts.
                ("ssl", "true") => this.set("sslmode", "require".to_owned())?,
                (name, value) => this.set(name, value.to_owned())?,
            }
        }
        Ok(this)
    }

    fn set_hosts(&mut self, hosts: &str) -> Result<(), InvalidConnectionString> {
        if hosts.is_empty() {
            return Ok(());
        }
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = match host.strip_prefix('[') {
                Some(host) => {
                    let (address, port) = host.split_once(']').ok_or(Encoding)?;
                    let port = match port.strip_prefix(':') {
                        None if port.is_empty() => "",
                        None => return Err(Encoding),
                        Some(port) => port,
                    };
                    (address.to_owned(), port)
                }
                None => {
                    let (name, port) = host.split_once(':').unwrap_or((host, ""));
                    (decoded(name)?, port)
                }
            };
            names.push(name);
            ports.push(port);
        }
        if names.iter().any(|name| !name.is_empty()) {
            self.set("host", names.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.set("port", ports.join(","))?;
        }
        Ok(())
    }

    /// Reads `name = value name = value`. A value with spaces is in single quotes, and `\` escapes a character.
    fn of_words(text: &str) -> Result<Self, InvalidConnectionString> {
        let mut this = Self {
            parameters: BTreeMap::new(),
        };
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (name, behind) = rest.split_once('=').ok_or(Words)?;
            let behind = behind.trim_start();
            let (quoted, behind) = match behind.strip_prefix('\'') {
                Some(behind) => (true, behind),
                None => (false, behind),
            };
            let mut value = String::new();
            let mut end = None;
            let mut characters = behind.char_indices();
            while let Some((at, character)) = characters.next() {
                match character {
                    '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                    '\'' if quoted => {
                        end = Some(at + 1);
                        break;
                    }
                    _ if !quoted && character.is_whitespace() => {
                        end = Some(at);
                        break;
                    }
                    _ => value.push(character),
                }
            }
            if quoted && end.is_none() {
                return Err(Words);
            }
            let name = name.trim_end();
            if value.contains('\0') {
                return Err(Words);
            }
            if !quoted && name != "password" && value.contains([';', '&']) {
                return Err(Separator);
            }
            this.set(name, value)?;
            rest = behind[end.unwrap_or(behind.len())..].trim_start();
        }
        Ok(this)
    }

    /// Refuses what is known to be wrong before anybody connects.
    fn checked(self) -> Result<Self, InvalidConnectionString> {
        let hosts = self.get("host").or(self.get("hostaddr"));
        let hosts: Vec<&str> = hosts.ok_or(NoHost)?.split(',').collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err(NoHost);
        }
        if self.get("host").is_some_and(|hosts| hosts.contains('@')) {
            return Err(Encoding);
        }
        let ports: Vec<&str> = self
            .get("port")
            .map_or_else(Vec::new, |ports| ports.split(',').collect());
        let is_port =
            |port: &&str| port.is_empty() || port.parse::<u16>().is_ok_and(|port| port > 0);
        if !ports.iter().all(is_port) || (ports.len() > 1 && ports.len() != hosts.len()) {
            return Err(Port);
        }
        if self
            .get("hostaddr")
            .is_some_and(|addresses| addresses.split(',').count() != hosts.len())
        {
            return Err(Value {
                name: "hostaddr",
                expected: "an address for each host",
            });
        }
        let addresses = self.get("hostaddr").unwrap_or("127.0.0.1");
        if addresses
            .split(',')
            .any(|address| address.parse::<IpAddr>().is_err())
        {
            return Err(Value {
                name: "hostaddr",
                expected: "an address such as 10.0.0.7; a name stands in host",
            });
        }
        Ok(self)
    }
}

fn decoded(text: &str) -> Result<String, InvalidConnectionString> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in escapes {
        if !is_hex(at + 1) || !is_hex(at + 2) {
            return Err(Encoding);
        }
    }
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| Encoding)?;
    match decoded.contains('\0') {
        true => Err(Encoding),
        false => Ok(decoded.into_owned()),
    }
}

impl FromStr for ConnectionString {
    type Err = InvalidConnectionString;

    fn from_str(text: &str) -> Result<Self, InvalidConnectionString> {
        let url = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"));
        let read = match url {
            Some(rest) => Self::of_url(rest)?,
            None if text
                .split('=')
                .next()
                .is_some_and(|front| front.contains("://")) =>
            {
                return Err(Scheme);
            }
            None if text.contains('=') => Self::of_words(text)?,
            None => return Err(Neither),
        };
        read.checked()
    }
}

/// Writes a URL without the password.
impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |value: &str| utf8_percent_encode(value, PLAIN).to_string();
        f.write_str("postgres://")?;
        let password = self.get("password").map_or("", |_| ":***");
        match self.get("user") {
            Some(user) => write!(f, "{}{password}@", encode(user))?,
            None if !password.is_empty() => write!(f, "{password}@")?,
            None => {}
        }
        let hosts: Vec<&str> = self
            .get("host")
            .map_or_else(Vec::new, |hosts| hosts.split(',').collect());
        let ports: Vec<&str> = self
            .get("port")
            .map_or_else(Vec::new, |ports| ports.split(',').collect());
        let in_front = !hosts.iter().any(|host| host.starts_with('/'));
        if in_front {
            let shown = hosts.iter().enumerate().map(|(index, host)| {
                let host = match host.contains(':') {
                    true => format!("[{host}]"),
                    false => (*host).to_owned(),
                };
                // A single port applies to all hosts.
                match ports
                    .get(index)
                    .or(ports.first())
                    .filter(|port| !port.is_empty())
                {
                    Some(port) => format!("{host}:{port}"),
                    None => host,
                }
            });
            f.write_str(&shown.collect::<Vec<_>>().join(","))?;
        }
        f.write_str("/")?;
        f.write_str(&self.get("dbname").map(encode).unwrap_or_default())?;
        let mut separator = '?';
        for (name, value) in &self.parameters {
            let shown = match *name {
                "user" | "password" | "dbname" => false,
                "host" | "port" => !in_front || hosts.is_empty(),
                _ => true,
            };
            if shown {
                let value = match *name {
                    // These are free text, which may hold anything.
                    "options" | "application_name" | "fallback_application_name" => {
                        "***".to_owned()
                    }
                    _ => utf8_percent_encode(value, PLAIN_VALUE).to_string(),
                };
                write!(f, "{separator}{name}={value}")?;
                separator = '&';
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl InvalidConnectionString ===

impl fmt::Display for InvalidConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Neither => f.write_str("it does not begin with postgres://")?,
            Scheme => f.write_str("it is a URL that does not begin with postgres://")?,
            Encoding => f.write_str(
                "a character in it has to be percent-encoded, most likely in the password: '/' as %2F, '@' as %40, ':' as \
                 %3A, '?' as %3F, '#' as %23, '%' as %25",
            )?,
            Port => f.write_str(
                "its port is not a number from 1 to 65535, one for all hosts or one for each; or a ':' or '/' in the \
                 password has to be percent-encoded, as %3A or %2F",
            )?,
            NoHost => f.write_str(
                "it names no host: write localhost, or for the socket of this machine host=/var/run/postgresql",
            )?,
            UnknownParameter => f.write_str(
                "it has a parameter that PostgreSQL does not know; or a '?' in the password has to be percent-encoded, as \
                 %3F",
            )?,
            Unsupported { name, instead } => {
                write!(f, "its parameter '{name}' is not supported as it is; write {instead}")?;
            }
            Value { name, expected } => {
                write!(f, "there is no such value for its parameter '{name}'; write {expected}")?;
            }
            Words => f.write_str("a word of it has no '=', or a quote is not closed")?,
            Separator => f.write_str(
                "its parameters are separated by something else than in libpq: in a URL the first stands behind '?' and \
                 the others behind '&', otherwise a space stands between them; a ';', '&' or '=' of a value has to be \
                 percent-encoded, or in quotes",
            )?,
        }
        f.write_str(
            "; it looks like postgres://user:password@host:5432/database?sslmode=verify-full, or like host=db port=5432 \
             user=app password=… dbname=jobs",
        )
    }
}

impl std::error::Error for InvalidConnectionString {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let read: ConnectionString = text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        format!("{read:?}")
    }

    #[test]
    fn what_libpq_takes_is_taken_and_shown_without_the_password() {
        for (text, expected) in [
            ("postgres://me:S3cret@db/jobs", "postgres://me:***@db/jobs"),
            (
                "postgresql://me:S3cret@db:5433/jobs?sslmode=require",
                "postgres://me:***@db:5433/jobs?sslmode=require",
            ),
            (
                "postgres://me:S3cret%2Fpw@db/jobs",
                "postgres://me:***@db/jobs",
            ),
            (
                "postgres://me:S3cret@a:5432,b:5433/jobs?target_session_attrs=read-write",
                "postgres://me:***@a:5432,b:5433/jobs?target_session_attrs=read-write",
            ),
            (
                "postgres://me:S3cret@[::1]:5433/jobs",
                "postgres://me:***@[::1]:5433/jobs",
            ),
            (
                "postgres://me@/jobs?host=/var/run/postgresql",
                "postgres://me@/jobs?host=/var/run/postgresql",
            ),
            (
                "postgres:///jobs?host=/var/run/postgresql&user=me&password=S3cret",
                "postgres://me:***@/jobs?host=/var/run/postgresql",
            ),
            (
                "postgres://me@%2Fvar%2Frun%2Fpostgresql/jobs",
                "postgres://me@/jobs?host=/var/run/postgresql",
            ),
            (
                "postgres://db/jobs?ssl=true",
                "postgres://db/jobs?sslmode=require",
            ),
            ("postgres://db", "postgres://db/"),
            (
                "host=db user=me password='S3cret \\'pw' dbname = jobs",
                "postgres://me:***@db/jobs",
            ),
            (
                "host=a,b port=5432 dbname=jobs options='-c search_path=x'",
                "postgres://a:5432,b:5432/jobs?options=***",
            ),
            (
                "host=/var/run/postgresql dbname=jobs",
                "postgres:///jobs?host=/var/run/postgresql",
            ),
            (
                "hostaddr=10.0.0.7 dbname=jobs",
                "postgres:///jobs?hostaddr=10.0.0.7",
            ),
            (
                "postgres://db/jobs?application_name=S3cret&options=-c%20my.token%3DS3cret",
                "postgres://db/jobs?application_name=***&options=***",
            ),
            (
                "host=db password=S3cret;pw&x dbname='a;b'",
                "postgres://:***@db/a%3Bb",
            ),
        ] {
            let said = shown(text);
            assert_eq!(said, expected, "{text}");
            assert!(!said.contains("S3cret"), "{said}");
        }
    }

    #[test]
    fn what_is_not_taken_is_refused_by_its_name_and_without_its_text() {
        for (text, words) in [
            ("S3cret", "does not begin with postgres://"),
            (
                "mysql://me:S3cret@db/jobs",
                "does not begin with postgres://",
            ),
            ("postgres://me:S3cret/pw@db/jobs", "'/' as %2F"),
            ("postgres://me:123/S3cret@db/jobs", "'/' as %2F"),
            ("postgres://me:S3cret?pw@db/jobs", "percent-encoded"),
            ("postgres://me:123?S3cret=1@db/jobs", "percent-encoded"),
            ("postgres://me:S3cret#pw@db/jobs", "'#' as %23"),
            ("postgres://me:S3@cret@db/jobs", "'@' as %40"),
            ("postgres://me:S3cret%zz@db/jobs", "'%' as %25"),
            (
                "postgres://me:S3cret@db:port/jobs",
                "number from 1 to 65535",
            ),
            ("postgres://me:S3cret@db:0/jobs", "number from 1 to 65535"),
            (
                "postgres://me:S3cret@db:70000/jobs",
                "number from 1 to 65535",
            ),
            ("postgres:///jobs", "host=/var/run/postgresql"),
            ("postgres://me:S3cret@/jobs", "names no host"),
            ("dbname=jobs password=S3cret", "names no host"),
            ("host=db password='S3cret", "a quote is not closed"),
            ("host=db S3cret", "no '='"),
            (
                "postgres://me:S3cret@db/jobs?sslmode=allow",
                "write sslmode=prefer",
            ),
            (
                "postgres://me:S3cret@db/jobs?sslmode=verify-ca",
                "write sslmode=verify-full",
            ),
            (
                "postgres://me:S3cret@db/jobs?sslmode=S3cret",
                "disable, prefer, require or verify-full",
            ),
            (
                "postgres://me:S3cret@db/jobs?target_session_attrs=primary",
                "target_session_attrs=read-write",
            ),
            (
                "postgres://me:S3cret@db/jobs?target_session_attrs=standby",
                "read-write",
            ),
            ("postgres://me@db/jobs?passfile=/S3cret", "database-file"),
            (
                "postgres://me@db/jobs?sslcert=/S3cret",
                "certificates of clients",
            ),
            ("service=S3cret", "host, port, database and user themselves"),
            (
                "postgres://me:S3cret@db/jobs?colour=S3cret",
                "PostgreSQL does not know",
            ),
            (
                "postgres://me:S3cret@db/jobs?connect_timeout=soon",
                "seconds, as in 10",
            ),
            ("hostaddr=db dbname=jobs", "a name stands in host"),
            (
                "host=a,b hostaddr=10.0.0.7 dbname=jobs",
                "an address for each host",
            ),
            (
                "postgres://db/jobs&user=me&password=S3cret",
                "the first stands behind '?'",
            ),
            (
                "postgres://db;user=me;password=S3cret",
                "the first stands behind '?'",
            ),
            (
                "host=db;user=me;password=S3cret",
                "a space stands between them",
            ),
            (
                "host=db user=me;password=S3cret",
                "a space stands between them",
            ),
            (
                "jdbc:postgresql://db/jobs?user=me&password=S3cret",
                "does not begin with postgres://",
            ),
        ] {
            let error = text
                .parse::<ConnectionString>()
                .map(|read| read.to_string());
            let error = error.expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(
                error.contains("postgres://user:password@host:5432"),
                "{error}"
            );
            assert!(!error.contains("S3cret"), "{text}: {error}");
        }
    }
}
