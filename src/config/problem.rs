//! Problems of a configuration: as many as can be found at once, each with its place and remedy.

use std::fmt;

use super::declare::Source;

/// An error in the configuration, or a warning about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place of the setting, or [`Source::Default`] if it was not given.
    pub source: Source,
    /// The problem, and what to do.
    pub text: String,
}

/// Error when the configuration is invalid.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

// === impl Problem ===

impl Problem {
    /// Creates a problem at a place.
    pub fn new(source: &Source, text: impl Into<String>) -> Self {
        Self {
            source: source.clone(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(place) => write!(f, "{place}: {}", self.text),
            Source::Flag(name) | Source::Variable(name) => write!(f, "{name}: {}", self.text),
            Source::Default => f.write_str(&self.text),
        }
    }
}

// === impl Problems ===

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\nlameduck: "))
    }
}

impl std::error::Error for Problems {}
