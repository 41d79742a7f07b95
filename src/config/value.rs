//! What a setting's value may be: how it is written in a flag, a variable or a TOML file, and how it is shown.
//!
//! | type | written | in TOML also |
//! | --- | --- | --- |
//! | [`Time`] | `30s`, `1h30m`, `30d` | |
//! | [`Bytes`] | `10GiB`, `64MB`, `1048576` | a number |
//! | [`Share`] | `0.5` | a number |
//! | [`CommandLine`] | `python3 resize.py` | an array of a program and its arguments |
//! | [`Target`] | `http://resize:8000/jobs` | |
//! | [`Database`] | `postgres://lameduck@db/jobs` | |

use std::{
    borrow::Cow,
    fmt,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use lameduck::{jobs::job::Order, lifecycle::ReadinessPolicy};
use toml::de::DeValue;
use url::Url;

/// The value of a setting.
pub trait Value: Clone + Send + Sync + 'static {
    /// How it is written in TOML.
    const FORM: Form;

    /// As in a flag or a variable; the error says how to write it.
    fn from_text(text: &str) -> Result<Self, String>;

    /// As `from_text` would take it, with secrets masked.
    fn shown(&self) -> String;

    /// As in a TOML file.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = match (Self::FORM, value) {
            (Form::Text | Form::Size | Form::Command, DeValue::String(text)) => text.to_string(),
            (Form::Number | Form::Size, DeValue::Integer(number)) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => return Err(format!("{number} is too large")),
                }
            }
            (Form::Share, DeValue::Integer(number)) => number.to_string(),
            (Form::Share, DeValue::Float(number)) => number.to_string(),
            (Form::Switch, DeValue::Boolean(yes)) => yes.to_string(),
            _ => {
                let expected = Self::FORM.expected();
                return Err(format!(
                    "this is of type {}; write {expected}",
                    value.type_str()
                ));
            }
        };
        Self::from_text(&text)
    }
}

/// How a value is written in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In quotes.
    Text,
    /// Without.
    Number,
    /// From 0 to 1.
    Share,
    /// A number of bytes, or in quotes with a unit.
    Size,
    /// `true` or `false`; as a flag it needs no value.
    Switch,
    /// In quotes, or an array of words.
    Command,
}

/// A command and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

/// A duration as people write it: `30s`, `1h30m`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A number of bytes, with a unit if one likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

/// An `http` or `https` URL with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(pub Url);

/// The URL of a PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database(pub Url);

// === impl Form ===

impl Form {
    fn expected(self) -> &'static str {
        match self {
            Self::Text => "a string in quotes",
            Self::Number => "a number without quotes",
            Self::Share => "a number from 0 to 1, without quotes",
            Self::Size => "a number of bytes, or a size in quotes as in \"10GiB\"",
            Self::Switch => "true or false, without quotes",
            Self::Command => "a command line in quotes, or an array of a program and its arguments",
        }
    }
}

// === impl CommandLine ===

impl TryFrom<Vec<String>> for CommandLine {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        if words.first().is_none_or(String::is_empty) {
            return Err("the command is empty; give a program and its arguments".into());
        }
        Ok(Self(words))
    }
}

impl Value for CommandLine {
    const FORM: Form = Form::Command;

    fn from_text(line: &str) -> Result<Self, String> {
        let words = shell_words::split(line)
            .map_err(|error| format!("'{line}' cannot be split into words: {error}"))?;
        Self::try_from(words)
    }

    fn shown(&self) -> String {
        shell_words::join(&self.0)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let words = match value {
            DeValue::String(line) => return Self::from_text(line),
            DeValue::Array(words) => words.iter().map(|word| word.get_ref().as_str()),
            _ => return Err(format!("write {}", Self::FORM.expected())),
        };
        let words: Option<Vec<String>> = words.map(|word| word.map(str::to_owned)).collect();
        words
            .ok_or("every word of the command is a string in quotes")?
            .try_into()
    }
}

// === impl Time ===

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a duration; write it as in 30s, 1h30m, 30d, 500ms");
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        // A month has no length of its own: refused, as is what overflows.
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let duration = span.to_duration(days).map_err(|_| wrong())?;
        Duration::try_from(duration)
            .map(Self)
            .map_err(|_| format!("'{text}' is negative; a duration is 0s or more"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3_600, "h"), (60, "m")];
        let mut rest = self.0;
        for (seconds, unit) in UNITS {
            let count = rest.as_secs() / seconds;
            if count > 0 {
                write!(f, "{count}{unit}")?;
                rest -= Duration::from_secs(count * seconds);
            }
        }
        match (rest.is_zero(), self.0.is_zero()) {
            (_, true) => f.write_str("0s"),
            (true, false) => Ok(()),
            (false, false) => write!(f, "{rest:?}"),
        }
    }
}

impl Value for Time {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

// === impl Bytes ===

impl Bytes {
    const UNITS: [(&'static str, u64); 9] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ];
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, size): &(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        match Self::UNITS[..4].iter().find(|unit| fits(unit)) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for Bytes {
    const FORM: Form = Form::Size;

    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a size; write it as in 1048576, 64MiB, 10GiB");
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = match unit.trim() {
            "" => "B",
            unit => unit,
        };
        let size = Self::UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let size = size.ok_or_else(wrong)?.1;
        number
            .checked_mul(size)
            .map(Self)
            .ok_or_else(|| format!("'{text}' is larger than any disk"))
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

// === impl Share ===

impl Value for Share {
    const FORM: Form = Form::Share;

    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(format!("'{text}' is not a number from 0 to 1")),
        }
    }

    fn shown(&self) -> String {
        self.0.to_string()
    }
}

// === impl Target ===

impl Value for Target {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        let url: Url = text.parse().map_err(|error| {
            format!("'{text}' is not a URL ({error}); write it as in http://host:8000/path")
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(format!("'{text}' is not an http or https URL with a host"));
        }
        Ok(Self(url))
    }

    fn shown(&self) -> String {
        masked(&self.0)
    }
}

/// What a URL's parameters may be told of; any other may be a secret.
const TOLD: [&str; 8] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "options",
    "port",
    "sslmode",
    "sslrootcert",
];

/// A URL without its password, and without what may be one among its parameters.
fn masked(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // A URL with a host takes a password.
        let _ = url.set_password(Some("***"));
    }
    let is_secret = |(name, _): &(Cow<'_, str>, Cow<'_, str>)| !TOLD.contains(&&**name);
    if url.query_pairs().any(|pair| is_secret(&pair)) {
        let parameters = url.query_pairs().map(|pair| match is_secret(&pair) {
            true => format!("{}=***", pair.0),
            false => format!("{}={}", pair.0, pair.1),
        });
        let parameters: Vec<String> = parameters.collect();
        url.set_query(Some(&parameters.join("&")));
    }
    url.into()
}

// === impl Database ===

impl Value for Database {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        let example = "write it as in postgres://user:password@host:5432/database";
        // Without the text: it may hold a password.
        let url: Url = text
            .parse()
            .map_err(|error| format!("it is not a URL ({error}); {example}"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(format!(
                "'{}' is not a PostgreSQL URL; {example}",
                masked(&url)
            ));
        }
        Ok(Self(url))
    }

    fn shown(&self) -> String {
        masked(&self.0)
    }
}

// === impl Readiness, Order ===

impl Value for ReadinessPolicy {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "immediate" => Ok(Self::Immediate),
            "after-removal" => Ok(Self::AfterRemoval),
            "auto" => Ok(Self::Auto),
            _ => Err(format!(
                "'{text}' is not a readiness policy; use immediate, after-removal or auto"
            )),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Immediate => "immediate",
            Self::AfterRemoval => "after-removal",
            Self::Auto => "auto",
        }
        .to_owned()
    }
}

impl Value for Order {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "priority" => Ok(Self::Priority),
            "run-at" => Ok(Self::RunAt),
            _ => Err(format!("'{text}' is not an order; use priority or run-at")),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Priority => "priority",
            Self::RunAt => "run-at",
        }
        .to_owned()
    }
}

// === impl of plain values ===

impl Value for String {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Err("it is empty".to_owned()),
            _ => Ok(text.to_owned()),
        }
    }

    fn shown(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("the path is empty".to_owned()),
            _ => Ok(text.into()),
        }
    }

    fn shown(&self) -> String {
        self.display().to_string()
    }
}

impl Value for bool {
    const FORM: Form = Form::Switch;

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("'{text}' is neither true nor false"))
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Numbers, each with what is said of a wrong one.
macro_rules! numbers {
    ($($type:ty: $expected:literal),+ $(,)?) => {$(
        impl Value for $type {
            const FORM: Form = Form::Number;

            fn from_text(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("'{text}' is not {}", $expected))
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

numbers! {
    u32: "a whole number, 0 or more",
    NonZeroU32: "a whole number, 1 or more",
    NonZeroU64: "a whole number, 1 or more",
    NonZeroUsize: "a whole number, 1 or more",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_as_people_write_them() {
        for (text, seconds, shown) in [
            ("30s", 30, "30s"),
            ("30d", 2_592_000, "30d"),
            ("1h30m", 5_400, "1h30m"),
            ("90 minutes", 5_400, "1h30m"),
            ("1d 1s", 86_401, "1d1s"),
            ("PT1H", 3_600, "1h"),
            ("0s", 0, "0s"),
        ] {
            let time: Time = text.parse().unwrap();
            assert_eq!(time.0.as_secs(), seconds, "{text}");
            assert_eq!(time.to_string(), shown);
            assert_eq!(time.to_string().parse(), Ok(time), "{text}");
        }
        for text in ["30", "1 month", "-3s", "soon", ""] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("10GiB", 10 << 30),
            ("64 mib", 64 << 20),
            ("5MB", 5_000_000),
        ] {
            assert_eq!(Bytes::from_text(text), Ok(Bytes(bytes)), "{text}");
        }
        assert_eq!(Bytes(64 << 20).to_string(), "64MiB");
        for text in ["", "GiB", "1.5GiB", "10 parsecs", "99999999TiB"] {
            assert!(Bytes::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let target = Target::from_text("http://me:swordfish@resize:8000/jobs").unwrap();
        assert_eq!(target.shown(), "http://me:***@resize:8000/jobs");
        for text in ["resize:8000", "ftp://resize", "http://", "/jobs"] {
            assert!(Target::from_text(text).is_err(), "{text}");
        }
        let database = Database::from_text("postgres://me:swordfish@db/jobs").unwrap();
        assert_eq!(database.shown(), "postgres://me:***@db/jobs");
        for text in ["mysql://me:swordfish@db", "//me:swordfish@db", "swordfish"] {
            let error = Database::from_text(text).unwrap_err();
            assert!(!error.contains("swordfish"), "{error}");
        }
    }
}
