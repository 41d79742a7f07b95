//! Signals by their usual names.

use rustix::process::Signal;

/// The signals that a program can be sent and can handle in its own way.
const NAMES: [(&str, Signal); 14] = [
    ("ALRM", Signal::ALARM),
    ("CONT", Signal::CONT),
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("IO", Signal::IO),
    ("PROF", Signal::PROF),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("TSTP", Signal::TSTP),
    ("URG", Signal::URG),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("VTALRM", Signal::VTALARM),
    ("WINCH", Signal::WINCH),
];

/// Error when a text is not the name of a signal that a program can handle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no signal that a program can answer; there are {}", names().join(", "))]
pub struct UnknownSignal {
    text: String,
}

/// Returns the signal of this name, such as TERM or SIGTERM.
///
/// # Errors
/// If there is no such signal that a program can handle.
pub fn signal_of_name(text: &str) -> Result<Signal, UnknownSignal> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, signal)| *signal)
        .ok_or_else(|| UnknownSignal {
            text: text.to_owned(),
        })
}

/// Returns the name of a signal for the log.
pub(crate) fn name(signal: Signal) -> &'static str {
    let found = NAMES.iter().find(|(_, known)| *known == signal);
    found.map_or("KILL", |(name, _)| name)
}

fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_its_name_with_and_without_the_prefix() {
        for (text, signal) in [
            ("TERM", Signal::TERM),
            ("sigquit", Signal::QUIT),
            (" USR1 ", Signal::USR1),
        ] {
            assert_eq!(signal_of_name(text), Ok(signal));
        }
        for text in ["", "KILL", "STOP", "15", "SIG"] {
            let error = signal_of_name(text).unwrap_err().to_string();
            assert!(error.contains("TERM"), "{error}");
        }
    }
}
