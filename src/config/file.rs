//! The TOML file: tables of settings. Every value keeps its place, and every error comes with a suggestion.
//!
//! ```toml
//! workers = 10                  # settings of the process, and of every queue that does not say otherwise
//!
//! [queues.resize]               # a queue
//! exec = "python3 resize.py"
//!
//! [[teardown-hook]]             # something to do at the end
//! name = "broker"
//! url = "http://127.0.0.1:15020/quitquitquit"
//! ```

use std::{cell::RefCell, fmt, ops::Range, path::Path, sync::Arc};

use lameduck::jobs::job::QueueName;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    declare::{Given, Section, Source},
    problem::{Problem, Problems},
    secret::{cannot_read, shown_path},
    settings::{HookSettings, ProcessSettings, QueueSettings, Settings},
    value::Value,
};

/// How similar a known word must be to be suggested: in a short one, a letter or two may differ.
const ALIKE: f64 = 0.75;

/// The contents of a file.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The settings at the top level.
    pub settings: Settings,
    /// The tables `[queues.NAME]`.
    pub queues: Vec<(QueueName, Source, QueueSettings)>,
    /// The tables `[[teardown-hook]]`.
    pub hooks: Vec<(Source, HookSettings)>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's path.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// A table that is being read.
pub struct Table<'a> {
    /// Its name in messages.
    title: String,
    text: &'a Text<'a>,
    entries: Vec<(&'a str, Range<usize>, &'a Spanned<DeValue<'a>>)>,
    known: Vec<String>,
}

/// The file's text, and the problems that were found in it.
struct Text<'a> {
    file: Arc<str>,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

// === impl Document ===

impl Document {
    /// Reads a file. Returns the settings that can be understood, and problems for the others.
    pub fn load(path: &Path) -> Result<(Self, Vec<Problem>), Problems> {
        let shown = shown_path(path);
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!(
                "the configuration file: {}; give another one by --config",
                cannot_read(path, &error)
            );
            Problems(vec![Problem::new(&Source::Default, text)])
        })?;
        Ok(Self::read(&shown, &text))
    }

    /// Reads a file's text.
    pub fn read(file: &str, text: &str) -> (Self, Vec<Problem>) {
        let text = Text {
            file: file.into(),
            text,
            problems: RefCell::default(),
        };
        let (root, errors) = DeTable::parse_recoverable(text.text);
        let mut root = Table::new("the configuration file", &text, root.get_ref());
        let mut document = Self {
            settings: Settings {
                queue: QueueSettings::from_table(&mut root),
                process: ProcessSettings::from_table(&mut root),
            },
            ..Self::default()
        };
        if let Some(queues) = root.child("queues") {
            document.read_queues(&text, queues);
        }
        if let Some(hooks) = root.child("teardown-hook") {
            document.read_hooks(&text, hooks);
        }
        root.finish();
        let place = |problem: &Problem| match &problem.source {
            Source::File(place) => (place.line, place.column),
            _ => (0, 0),
        };
        let spans = errors
            .iter()
            .map(|error| (error.span().unwrap_or_default().start, error.message()));
        if let Some((start, message)) = spans.min_by_key(|(start, _)| *start) {
            // Nothing else that was read can be trusted: even a key may be a piece of a value, and so of a secret.
            text.problems.borrow_mut().clear();
            text.complain(
                start..start,
                format!("this is not TOML: {}; write a setting as in workers = 10, and a text in quotes, as in \
                         grace = \"30s\"", unquoted(message)),
            );
        }
        let mut problems = text.problems.into_inner();
        problems.sort_by_key(place);
        (document, problems)
    }

    fn read_queues<'a>(&mut self, text: &'a Text<'a>, queues: &'a Spanned<DeValue<'a>>) {
        let Some(tables) = queues.get_ref().as_table() else {
            return text.complain(queues.span(), "queues are tables: [queues.NAME]");
        };
        for (name, table) in tables {
            let name: QueueName = match name.get_ref().parse() {
                Ok(name) => name,
                Err(error) => {
                    let error: lameduck::jobs::job::InvalidQueueName = error;
                    text.complain(name.span(), error.to_string());
                    continue;
                }
            };
            let Some(entries) = table.get_ref().as_table() else {
                text.complain(table.span(), format!("a queue is a table: [queues.{name}]"));
                continue;
            };
            let mut entries = Table::new(format!("queue '{name}'"), text, entries);
            let settings = QueueSettings::from_table(&mut entries);
            entries.finish();
            let place = Source::File(text.place(table.span().start));
            self.queues.push((name, place, settings));
        }
    }

    fn read_hooks<'a>(&mut self, text: &'a Text<'a>, hooks: &'a Spanned<DeValue<'a>>) {
        let Some(tables) = hooks.get_ref().as_array() else {
            return text.complain(hooks.span(), "teardown hooks are tables: [[teardown-hook]]");
        };
        for table in tables {
            let Some(entries) = table.get_ref().as_table() else {
                text.complain(
                    table.span(),
                    "a teardown hook is a table: [[teardown-hook]]",
                );
                continue;
            };
            let mut entries = Table::new("a teardown hook", text, entries);
            let settings = HookSettings::from_table(&mut entries);
            entries.finish();
            let place = Source::File(text.place(table.span().start));
            self.hooks.push((place, settings));
        }
    }
}

/// Returns a parser's message without its quotes from the file: they may be secrets, unless they are punctuation.
fn unquoted(message: &str) -> String {
    let pieces = message.lines().next().unwrap_or_default().split('`');
    let pieces = pieces.enumerate().map(|(index, piece)| match index % 2 {
        1 if piece.len() > 1 => "…".to_owned(),
        1 => format!("`{piece}`"),
        _ => piece.to_owned(),
    });
    pieces.collect()
}

// === impl Table ===

impl<'a> Table<'a> {
    fn new(title: impl Into<String>, text: &'a Text<'a>, table: &'a DeTable<'a>) -> Self {
        let entries = table.iter();
        Self {
            title: title.into(),
            text,
            entries: entries
                .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
                .collect(),
            known: Vec::new(),
        }
    }

    /// Takes the value of a setting out of the table, if it is there.
    pub fn take<T: Value>(&mut self, name: &str) -> Option<Given<T>> {
        let value = self.child(name)?;
        match T::from_toml(value.get_ref()) {
            Ok(read) => Some(Given {
                value: read,
                source: Source::File(self.text.place(value.span().start)),
            }),
            Err(error) => {
                let mut error = format!("{name}: {error}");
                if name == "teardown" && value.get_ref().is_array() {
                    error += "; hooks are tables [[teardown-hook]]";
                }
                self.text.complain(value.span(), error);
                None
            }
        }
    }

    fn child(&mut self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(name.to_owned());
        let found = self.entries.iter().position(|(key, ..)| *key == name)?;
        Some(self.entries.swap_remove(found).2)
    }

    /// Reports entries that were not taken: they are unknown settings.
    fn finish(self) {
        for (key, span, _) in self.entries {
            let alike = self
                .known
                .iter()
                .map(|known| (strsim::jaro_winkler(key, known), known));
            let best = alike.max_by(|a, b| a.0.total_cmp(&b.0));
            let advice = match best {
                Some((likeness, known)) if likeness >= ALIKE => format!("did you mean '{known}'?"),
                _ => format!("{} takes: {}", self.title, self.known.join(", ")),
            };
            let said = format!("'{key}' is no setting of {}; {advice}", self.title);
            self.text.complain(span, said);
        }
    }
}

// === impl Text ===

impl Text<'_> {
    fn complain(&self, span: Range<usize>, text: impl Into<String>) {
        let source = Source::File(self.place(span.start));
        self.problems.borrow_mut().push(Problem::new(&source, text));
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column } = self;
        write!(f, "{file}, line {line}, column {column}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let (_, problems) = Document::read("a.toml", text);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_place_and_what_to_do() {
        for (text, words) in [
            (
                "workres = 3",
                "'workres' is no setting of the configuration file; did you mean 'workers'?",
            ),
            ("colour = 3", "takes: exec, http,"),
            (
                "\ngrace = '30 parsecs'",
                "a.toml, line 2, column 9: grace: it is not a duration",
            ),
            ("grace = '30 parsecs'", "write it as in 30s"),
            ("workers = 0", "1 or more"),
            ("workers = '3'", "without quotes"),
            ("exec = []", "give a program and its arguments"),
            ("lame-duck-share = 7.0", "from 0 to 1"),
            ("readiness = 'later'", "immediate, after-removal or auto"),
            (
                "[queues.mail]\nwokers = 3",
                "line 2, column 1: 'wokers' is no setting of queue 'mail'; did you mean 'workers'?",
            ),
            ("[queues.mail]\ngrace = '3s'", "no setting of queue 'mail'"),
            ("[queues.'a b']", "a b"),
            ("queues = 3", "[queues.NAME]"),
            ("[[teardown-hook]]\nnane = 'x'", "did you mean 'name'?"),
            ("[[teardown]]\nname = 'x'", "[[teardown-hook]]"),
            ("workers = \n", "line 1"),
            (
                "database = postgres://me:S3cret@db/jobs",
                "a text in quotes",
            ),
            ("a = 'S3cret", "line 1"),
            ("workers = 3\nworkers = 4", "line 2"),
        ] {
            let said = problems(text).join("\n");
            assert!(said.contains(words), "{text}: {said}");
            assert!(!said.contains("S3cret"), "{said}");
        }
    }

    #[test]
    fn a_line_that_is_not_toml_is_told_once_and_nothing_of_it_is_repeated() {
        for line in [
            "workers = ",
            "workers",
            "workers = = 3",
            "database = postgres://me:S3cret@db/jobs",
            "= 3",
            "[queues",
        ] {
            let said = problems(&format!(
                "grace = 3\n{line}\nexec = 'cat'\ntimeout = '1m'\n"
            ));
            let [said] = &said[..] else {
                panic!("{line}: {said:#?}");
            };
            assert!(
                said.contains("line 2,") && said.contains("not TOML"),
                "{said}"
            );
            assert!(!said.contains("S3cret") && !said.contains("me:"), "{said}");
        }
    }

    #[test]
    fn all_mistakes_are_told_in_the_order_of_the_file() {
        let said = problems("workres = 3\ngrace = 3\n[queues.mail]\nordr = 'x'\n");
        assert_eq!(said.len(), 3, "{said:?}");
        for (line, said) in [1, 2, 4].iter().zip(&said) {
            assert!(said.contains(&format!("line {line},")), "{said}");
        }
    }
}
