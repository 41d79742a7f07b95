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
//! What was given is kept with where it was given, so that every message can name the place.

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
    /// What stands for its value in the help.
    pub value_name: &'static str,
    /// What it is for.
    pub help: String,
    /// What holds where nobody gives it.
    pub default: Option<String>,
}

/// A value, and where it comes from.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// What was given.
    pub value: T,
    /// Where.
    pub source: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--name`.
    Flag(String),
    /// `LAMEDUCK_NAME`.
    Variable(String),
    /// A line in the file.
    File(Place),
    /// Nobody said so.
    Default,
}

/// A setting with the value in force, for people.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// `None` where it is not set and has no default.
    pub value: Option<String>,
    /// From where.
    pub source: Source,
}

/// Settings that belong together.
pub trait Section: Clone + Default {
    /// As declared.
    fn settings() -> Vec<Setting>;
    /// Flags, with their variables.
    fn args() -> Vec<Arg>;
    /// What flags and variables gave.
    fn from_matches(matches: &ArgMatches) -> Self;
    /// What a table of the file gives.
    fn from_table(table: &mut Table<'_>) -> Self;
    /// What was given here, else what was given there.
    fn or(self, other: Self) -> Self;
    /// What is in force.
    fn entries(&self) -> Vec<Entry>;
}

/// Declares a section: the struct of what was given, and the struct of the values in force.
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

/// What differs between a setting with a default and one without.
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

/// `max_body` is the setting `max-body`.
pub fn name_of(field: &str) -> String {
    field.replace('_', "-")
}

/// The setting `max-body` is the variable `LAMEDUCK_MAX_BODY`.
pub fn variable_of(name: &str) -> String {
    format!("LAMEDUCK_{}", name.replace('-', "_").to_uppercase())
}

/// What flags and variables gave for a setting.
pub fn matched<T: Value>(matches: &ArgMatches, field: &str) -> Option<Given<T>> {
    let name = name_of(field);
    let value = matches.get_one::<T>(&name)?.clone();
    let source = match matches.value_source(&name) {
        Some(ValueSource::EnvVariable) => Source::Variable(variable_of(&name)),
        _ => Source::Flag(format!("--{name}")),
    };
    Some(Given { value, source })
}

// === impl Setting ===

impl Setting {
    /// The help with the default behind it.
    pub fn help(&self) -> String {
        let help = self.help.trim_end_matches('.');
        match &self.default {
            Some(default) => format!("{help} [default: {default}]"),
            None => help.to_owned(),
        }
    }

    /// As a flag with a variable.
    pub fn arg<T: Value>(self) -> Arg {
        let arg = Arg::new(self.name.clone())
            .long(self.name.clone())
            .env(variable_of(&self.name))
            // It may be a URL with a password.
            .hide_env_values(true)
            .value_name(self.value_name)
            .help(self.help())
            .value_parser(|text: &str| T::from_text(text));
        match T::FORM {
            Form::Switch => arg.num_args(0..=1).default_missing_value("true"),
            _ => arg,
        }
    }

    /// With what is in force.
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
