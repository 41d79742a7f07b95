//! The setting that names the PostgreSQL database.

use std::fmt;

use lameduck::jobs::engine::postgres::ConnectionString;

use super::value::{Form, Value};

/// The connection string of a PostgreSQL database.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    text: String,
    shown: String,
    has_password: bool,
}

// === impl Database ===

impl Database {
    /// Returns the connection string as given, with the password.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the connection string holds a password.
    pub fn has_password(&self) -> bool {
        self.has_password
    }
}

impl Value for Database {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let read: ConnectionString = text.parse().map_err(|error| format!("{error}"))?;
        Ok(Self {
            text: text.to_owned(),
            shown: read.to_string(),
            has_password: read.has_password(),
        })
    }

    fn shown(&self) -> String {
        self.shown.clone()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
