//! The types of settings: how a value is written in a flag, a variable or a TOML file, and how it is shown.
//!
//! | type | written | in TOML also |
//! | --- | --- | --- |
//! | [`Time`] | `30s`, `1h30m`, `30d` | |
//! | [`Bytes`] | `10GiB`, `64MB`, `1048576` | a number |
//! | [`Share`] | `0.5` | a number |
//! | [`CommandLine`] | `python3 resize.py` | an array of a program and its arguments |
//! | [`Target`] | `http://resize:8000/jobs` | |
//!
//! An error says what is wrong and how to write the value, and never repeats what was given: it may be a secret in
//! the wrong place.

use std::{
    fmt,
    num::{IntErrorKind, NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use lameduck::{jobs::job::Order, lifecycle::ReadinessPolicy};
use toml::de::DeValue;
use url::Url;

use super::secret::{masked_command, masked_url};

/// The value of a setting.
pub trait Value: Clone + Send + Sync + 'static {
    /// The form of the value in TOML.
    const FORM: Form;

    /// Reads a value from a flag or a variable. The error says how to write it, and not what was given.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Returns the value as `from_text` would read it, with secrets masked.
    fn shown(&self) -> String;

    /// Reads a value from a TOML file.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = match (Self::FORM, value) {
            (Form::Text | Form::Size | Form::Command, DeValue::String(text)) => text.to_string(),
            (Form::Number | Form::Size, DeValue::Integer(number)) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => return Err("it is too large".to_owned()),
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

/// The form of a value in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string in quotes.
    Text,
    /// A number without quotes.
    Number,
    /// A number from 0 to 1, without quotes.
    Share,
    /// A number of bytes, or a size in quotes with a unit.
    Size,
    /// `true` or `false`; as a flag it needs no value.
    Switch,
    /// A command line in quotes, or an array of words.
    Command,
}

/// A command and its arguments.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

/// A duration as people write it: `30s`, `1h30m`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A number of bytes, optionally with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

/// An `http` or `https` URL with a host.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(pub Url);

/// The method of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub http::Method);

/// Longest duration that can be set: it can be added to an instant without overflow.
const LONGEST: Duration = Duration::from_secs(36_500 * 24 * 3_600);

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
        let program = words.first().map(String::as_str).unwrap_or_default();
        if program.is_empty() {
            return Err("the command is empty; give a program and its arguments".into());
        }
        // The program's name appears in many messages. A word that can't be one may be a secret.
        if program.contains("://") {
            return Err("it begins with a URL, and a program is wanted here".into());
        }
        if is_assignment(program) {
            return Err(
                "it begins by setting a variable, which only a shell understands; write env NAME=value PROGRAM".into(),
            );
        }
        Ok(Self(words))
    }
}

/// Whether a shell would take this word for the assignment of a variable.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

impl Value for CommandLine {
    const FORM: Form = Form::Command;

    fn from_text(line: &str) -> Result<Self, String> {
        let words = shell_words::split(line).map_err(
            |_| "a quote in it is not closed; write it as for a shell, as in sh -c 'cat | wc -c'",
        )?;
        Self::try_from(words)
    }

    fn shown(&self) -> String {
        masked_command(&self.0)
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

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

// === impl Time ===

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write it as in 30s, 1h30m, 30d, 500ms";
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("it is empty; {how}"));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("it is a number without a unit; {how}"));
        }
        let too_long = "it is longer than 36500d, the longest that can be set";
        let Ok(span) = text.parse::<jiff::Span>() else {
            return Err(match is_a_span_but_for_its_size(text) {
                true => too_long.to_owned(),
                false => format!("it is not a duration; {how}"),
            });
        };
        if span.get_years() != 0 || span.get_months() != 0 {
            return Err(
                "years and months have no length of their own; write days, as in 30d".into(),
            );
        }
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let duration = span.to_duration(days).map_err(|_| too_long)?;
        match Duration::try_from(duration) {
            Ok(duration) if duration > LONGEST => Err(too_long.to_owned()),
            Ok(duration) => Ok(Self(duration)),
            Err(_) => Err(format!("it is negative; {how}")),
        }
    }
}

/// Whether a text is a duration apart from its size: jiff does not tell numbers that are too large from misspellings.
fn is_a_span_but_for_its_size(text: &str) -> bool {
    let mut short = String::new();
    let mut digits = 0;
    for character in text.chars() {
        digits = match character.is_ascii_digit() {
            true => digits + 1,
            false => 0,
        };
        if digits <= 1 {
            short.push(character);
        }
    }
    short.parse::<jiff::Span>().is_ok()
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
    /// Returns the size in the largest unit that fits, for people.
    pub fn rounded(self) -> String {
        let fits = |(_, size): &&(&str, u64)| self.0 >= *size;
        match Self::UNITS[..4].iter().find(fits) {
            Some((unit, size)) => format!("{:.1} {unit}", self.0 as f64 / *size as f64),
            None => format!("{} bytes", self.0),
        }
    }

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
        let how = "write it as in 1048576, 64MiB, 10GiB";
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("it is empty; {how}"));
        }
        let too_large = "it is larger than any disk";
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let number: u64 = match number.parse::<u64>() {
            Ok(number) => number,
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
                return Err(too_large.into());
            }
            Err(_) => return Err(format!("it is not a size; {how}")),
        };
        if unit.starts_with('.') {
            return Err(format!("it has a fraction; take a smaller unit: {how}"));
        }
        let unit = match unit.trim() {
            "" => "B",
            unit => unit,
        };
        let size = Self::UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let size = size
            .ok_or_else(|| format!("it has no unit that is known; {how}"))?
            .1;
        number
            .checked_mul(size)
            .map(Self)
            .ok_or_else(|| too_large.to_owned())
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

// === impl Share ===

impl Value for Share {
    const FORM: Form = Form::Share;

    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err("it is not a number from 0 to 1, as in 0.5".to_owned()),
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
        let how = "write the whole of it, as in http://host:8000/path";
        let text = text.trim();
        let fault = match text.split_once("://") {
            None => Some("it is not a URL with http:// or https:// in front"),
            Some((scheme, _)) if !["http", "https"].contains(&&*scheme.to_ascii_lowercase()) => {
                Some("it begins neither with http:// nor with https://")
            }
            Some((_, rest)) if rest.is_empty() || rest.starts_with(['/', '?', '#', ':']) => {
                Some("it has no host")
            }
            Some(_) => None,
        };
        if let Some(fault) = fault {
            return Err(format!("{fault}; {how}"));
        }
        let url: Url = text.parse().map_err(|error| {
            let fault = match error {
                url::ParseError::EmptyHost => "it has no host",
                url::ParseError::InvalidPort => {
                    "its port is not a number from 0 to 65535, or a character of its password has to be percent-encoded"
                }
                _ => "its host is neither a name nor an address",
            };
            format!("{fault}; {how}")
        })?;
        Ok(Self(url))
    }

    fn shown(&self) -> String {
        masked_url(&self.0)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

// === impl Method ===

impl Value for Method {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        let method = text
            .trim()
            .parse()
            .map_err(|_| "it is not an HTTP method, as in POST")?;
        Ok(Self(method))
    }

    fn shown(&self) -> String {
        self.0.to_string()
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
            _ => Err(
                "it is not a readiness policy; write immediate, after-removal or auto".to_owned(),
            ),
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
            _ => Err("it is not an order; write priority or run-at".to_owned()),
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
        if text.trim().is_empty() {
            return Err("the path is empty".to_owned());
        }
        if text.contains("://") {
            return Err(
                "it is a URL, and a path is wanted here, as in /var/lib/lameduck".to_owned(),
            );
        }
        if text.contains(['\n', '\0']) {
            return Err(
                "it has line breaks: give the path of a file, and not what is in it".to_owned(),
            );
        }
        Ok(text.into())
    }

    fn shown(&self) -> String {
        self.display().to_string()
    }
}

impl Value for bool {
    const FORM: Form = Form::Switch;

    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        text.parse()
            .map_err(|_| "it is neither true nor false".to_owned())
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Implements [`Value`] for types of numbers, each with its minimum.
macro_rules! numbers {
    ($($type:ty: $least:literal),+ $(,)?) => {$(
        impl Value for $type {
            const FORM: Form = Form::Number;

            fn from_text(text: &str) -> Result<Self, String> {
                text.trim().parse::<$type>().map_err(|error| match error.kind() {
                    IntErrorKind::Empty => format!("it is empty; write {} or more", $least),
                    IntErrorKind::Zero => format!("it is 0; write {} or more", $least),
                    IntErrorKind::PosOverflow => format!("it is too large; there are {} at the most", <$type>::MAX),
                    _ => format!("it is not a whole number; write {} or more", $least),
                })
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

numbers! {
    u32: "0",
    NonZeroU32: "1",
    NonZeroU64: "1",
    NonZeroUsize: "1",
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
        for text in ["9999999d", "36501d", "99999999999999999999s", "1000000h"] {
            let error = text.parse::<Time>().unwrap_err();
            assert!(error.contains("longer than 36500d"), "{text}: {error}");
        }
        assert!("36500d".parse::<Time>().is_ok());
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
        for (text, shown) in [
            ("http://token@resize/", "http://***@resize/"),
            (
                "http://resize/?key=secret&secret",
                "http://resize/?key=***&***",
            ),
            ("http://resize/#secret", "http://resize/#***"),
        ] {
            assert_eq!(Target::from_text(text).unwrap().shown(), shown);
        }
    }
}
