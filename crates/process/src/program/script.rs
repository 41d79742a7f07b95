//! Checks the first line of a script, read as the kernel does (fs/binfmt_script.c), and the program that `env` starts.

use std::path::Path;

use super::{Defect, HEAD, Known, file, search};

/// Checks that the script's interpreter is there.
pub(super) fn examine(head: &[u8], known: Known, depth: usize) -> Result<(), Defect> {
    let line = match head.iter().position(|byte| *byte == b'\n') {
        Some(end) => &head[2..end],
        // The end of the file is the end of its line.
        None => &head[2..],
    };
    let is_cut = head.len() == HEAD && !head.contains(&b'\n');
    let line = line.trim_ascii_start();
    let end = line
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\t' | 0));
    if is_cut && end.is_none() {
        return Err(Defect::LineTooLong);
    }
    let (interpreter, argument) = line.split_at(end.unwrap_or(line.len()));
    if interpreter.is_empty() || interpreter == b"\r" {
        return Err(Defect::NoInterpreterNamed);
    }
    let interpreter = String::from_utf8_lossy(interpreter);
    let path = Path::new(interpreter.as_ref());
    file(path, known, depth + 1).map_err(|defect| Defect::Interpreter {
        name: interpreter.clone().into_owned(),
        defect: Box::new(defect),
    })?;
    let is_env = path.file_name().is_some_and(|name| name == "env");
    match named_for_env(&String::from_utf8_lossy(argument)).filter(|_| is_env && !is_cut) {
        Some(name) => by_env(name, known, depth + 1),
        None => Ok(()),
    }
}

/// Returns the program that `env` starts. The kernel passes the rest of the line in one piece; `-S` splits it.
fn named_for_env(argument: &str) -> Option<String> {
    let argument = argument.trim_matches([' ', '\t']);
    let Some(words) = argument.strip_prefix("-S") else {
        // Other options are not supported in such a line.
        return (!argument.is_empty() && !argument.starts_with('-')).then(|| argument.to_owned());
    };
    let mut words = words.split([' ', '\t']).filter(|word| !word.is_empty());
    words
        .find(|word| !word.contains('='))
        .filter(|word| !word.starts_with(['-', '"', '\'', '$']))
        .map(str::to_owned)
}

fn by_env(name: String, known: Known, depth: usize) -> Result<(), Defect> {
    let defect = match search(&name, known, depth) {
        Ok(()) => return Ok(()),
        Err(None) => Defect::Missing,
        Err(Some((_, defect))) => defect,
    };
    Err(Defect::Interpreter {
        name,
        defect: Box::new(defect),
    })
}
