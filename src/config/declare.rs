//! A setting is declared once: its name, its type, its default, its help.
//!
//! ```text
//!   settings! {                                     ──▶ flags and variables (clap)
//!       pub struct QueueSettings => Queue {         ──▶ keys of a TOML table, unknown ones refused
//!           /// How many jobs run at once.          ──▶ precedence: given here, else given there
//!           workers: NonZeroUsize = TWENTY, "N";    ──▶ `lameduck config show`
//!       }                                           ──▶ the value in force, a default where there is one
//!   }
//! ```
//!
//! Each value is kept with its source, so that every message can name the place.

use std::fmt;

use clap::{Arg, ArgMatches, parser::ValueSource};

use super::{
    file::{Place, Table},
    value::{Form, Value},
};

/// A setting as declared.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its name everywhere: `max-body`.
    pub name: String,
    /// Placeholder for its value in the help.
    pub value_name: &'static str,
    /// Help text: the purpose of the setting.
    pub help: String,
    /// The default, if there is one.
    pub default: Option<String>,
}

/// A value, and its source.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// The place where it was given.
    pub source: Source,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--name`.
    Flag(String),
    /// `LAMEDUCK_NAME`.
    Variable(String),
    /// A line in the file.
    File(Place),
    /// Not given; the default applies.
    Default,
}

/// A setting with the value in force, for people.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its value, or `None` if it is not set and has no default.
    pub value: Option<String>,
    /// The source of the value.
    pub source: Source,
}

/// Settings that belong together.
pub trait Section: Clone + Default {
    /// Returns the settings as declared.
    fn settings() -> Vec<Setting>;
    /// Returns the flags, with their variables.
    fn args() -> Vec<Arg>;
    /// Reads the values from flags and variables.
    fn from_matches(matches: &ArgMatches) -> Self;
    /// Reads the values from a table of the file.
    fn from_table(table: &mut Table<'_>) -> Self;
    /// Merges two sets of values; those of `self` take precedence.
    fn or(self, other: Self) -> Self;
    /// Returns the settings in force.
    fn entries(&self) -> Vec<Entry>;
}

/// Declares a section: a struct of the given values, and a struct of the values in force.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $Given:ident => $InForce:ident {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $type:ty $(= $default:expr)?, $value_name:literal;
            )+
        }
    ) => {
        $(#[$about])*
        ///
        /// Each as it was given; `None` where it was not.
        #[derive(Clone, Debug, Default)]
        pub struct $Given {
            $( $(#[doc = $help])+ pub $field: Option<$crate::config::declare::Given<$type>>, )+
        }

        $(#[$about])*
        ///
        /// Each as it is in force.
        #[derive(Clone, Debug)]
        #[allow(dead_code, reason = "what is checked together with others is passed on as a type of its own")]
        pub struct $InForce {
            $( $(#[doc = $help])+ pub $field: $crate::config::declare::in_force!(type $type $(= $default)?), )+
        }

        impl $Given {
            /// The values in force.
            pub fn in_force(&self) -> $InForce {
                $InForce {
                    $( $field: $crate::config::declare::in_force!(
                        value self.$field.as_ref().map(|given| given.value.clone()) $(, $default)?
                    ), )+
                }
            }
        }

        impl $crate::config::declare::Section for $Given {
            fn settings() -> Vec<$crate::config::declare::Setting> {
                vec![ $( $crate::config::declare::Setting {
                    name: $crate::config::declare::name_of(stringify!($field)),
                    value_name: $value_name,
                    help: [$($help.trim()),+].join(" "),
                    default: $crate::config::declare::in_force!(shown $type $(= $default)?),
                }, )+ ]
            }

            fn args() -> Vec<clap::Arg> {
                let mut settings = Self::settings().into_iter();
                [ $( settings.next().map(|setting| setting.arg::<$type>()), )+ ]
                    .into_iter()
                    .flatten()
                    .collect()
            }

            fn from_matches(matches: &clap::ArgMatches) -> Self {
                Self { $( $field: $crate::config::declare::matched(matches, stringify!($field)), )+ }
            }

            fn from_table(table: &mut $crate::config::file::Table<'_>) -> Self {
                Self { $( $field: table.take(&$crate::config::declare::name_of(stringify!($field))), )+ }
            }

            fn or(self, other: Self) -> Self {
                Self { $( $field: self.$field.or(other.$field), )+ }
            }

            fn entries(&self) -> Vec<$crate::config::declare::Entry> {
                let mut settings = Self::settings().into_iter();
                [ $( settings.next().map(|setting| setting.entry(self.$field.as_ref())), )+ ]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        }
    };
}

/// The code that differs between settings with a default and settings without one.
macro_rules! in_force {
    (type $type:ty) => { Option<$type> };
    (type $type:ty = $default:expr) => { $type };
    (value $given:expr) => { $given };
    (value $given:expr, $default:expr) => { $given.unwrap_or_else(|| $default) };
    (shown $type:ty) => { None };
    (shown $type:ty = $default:expr) => {
        Some(<$type as $crate::config::value::Value>::shown(&$default))
    };
}

pub(super) use {in_force, settings};

/// Returns the name of the setting for a field: `max-body` for `max_body`.
pub fn name_of(field: &str) -> String {
    field.replace('_', "-")
}

/// Returns the variable of a setting: `LAMEDUCK_MAX_BODY` for `max-body`.
pub fn variable_of(name: &str) -> String {
    format!("LAMEDUCK_{}", name.replace('-', "_").to_uppercase())
}

/// Returns the value of a setting from flags and variables; none where the command has no such flag.
pub fn matched<T: Value>(matches: &ArgMatches, field: &str) -> Option<Given<T>> {
    let name = name_of(field);
    if matches.try_contains_id(&name).is_err() {
        return None;
    }
    let value = matches.get_one::<T>(&name)?.clone();
    let source = match matches.value_source(&name) {
        Some(ValueSource::EnvVariable) => Source::Variable(variable_of(&name)),
        _ => Source::Flag(format!("--{name}")),
    };
    Some(Given { value, source })
}

// === impl Setting ===

impl Setting {
    /// Returns the help text, followed by the default.
    pub fn help(&self) -> String {
        let help = self.help.trim_end_matches('.');
        match &self.default {
            Some(default) => format!("{help} [default: {default}]"),
            None => help.to_owned(),
        }
    }

    /// Returns the setting as a flag with a variable.
    pub fn arg<T: Value>(self) -> Arg {
        let arg = Arg::new(self.name.clone())
            .long(self.name.clone())
            .env(variable_of(&self.name))
            // The value may be a URL with a password.
            .hide_env_values(true)
            .value_name(self.value_name)
            .help(self.help())
            .value_parser(|text: &str| T::from_text(text));
        match T::FORM {
            Form::Switch => arg.num_args(0..=1).default_missing_value("true"),
            _ => arg,
        }
    }

    /// Returns the setting with the value in force.
    pub fn entry<T: Value>(self, given: Option<&Given<T>>) -> Entry {
        let (value, source) = match given {
            Some(given) => (Some(given.value.shown()), given.source.clone()),
            None => (self.default, Source::Default),
        };
        Entry {
            name: self.name,
            value,
            source,
        }
    }
}

// === impl Source ===

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Variable(name) => write!(f, "env {name}"),
            Self::File(place) => write!(f, "{}:{}", place.file, place.line),
            Self::Default => f.write_str("default"),
        }
    }
}
