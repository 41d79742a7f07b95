//! Checks whether a program can be started, as far as its files show without starting it.
//!
//! The kernel reports only "No such file or directory" if a script's interpreter or a binary's loader is
//! missing, and "Exec format error" for every format that it does not know. This check takes the kernel's own
//! steps, as execve(2) and execvp(3) describe them, and names what is missing.
//!
//! ```text
//!   name ─▶ PATH ─▶ file: regular, executable, not on noexec ─┬─ ELF ─▶ machine, loader (PT_INTERP)
//!                                                             └─ #!  ─▶ interpreter: again a file; env: again a name
//! ```

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags};

mod elf;
mod script;
#[cfg(test)]
mod tests;

pub use elf::Machine;

/// The directories that execvp(3) searches if there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Number of bytes that the kernel reads to see what a file is (`BINPRM_BUF_SIZE`).
const HEAD: usize = 256;
/// Maximum depth of scripts that interpret scripts (`exec_binprm` in fs/exec.c).
const DEEPEST: usize = 5;

/// The reason why a program can't be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No command is configured.
    NoCommand,
    /// There is no file of that name.
    NotFound {
        /// The program as configured.
        program: String,
        /// The directory in which a relative path was looked for.
        directory: Option<PathBuf>,
    },
    /// The file that was found can't be started.
    File {
        /// The file.
        path: PathBuf,
        /// Its defect.
        defect: Defect,
    },
}

/// A defect of a file that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// It is not there.
    Missing,
    /// Its path can't be followed, for this reason.
    Unreachable(String),
    /// It is a directory.
    Directory,
    /// It is a device, a pipe or a socket.
    NotAFile,
    /// This user may not execute it.
    NotExecutable {
        /// The user's number.
        user: u32,
    },
    /// Nothing on its file system may be executed.
    NoExecMount,
    /// It is empty.
    Empty,
    /// It ends before its header does.
    CutShort,
    /// It is for another processor.
    OtherMachine {
        /// The machine that it is for.
        built_for: Machine,
        /// The machine that this is.
        here: Machine,
    },
    /// It is for another operating system.
    OtherSystem(&'static str),
    /// It is text, and its first line does not name an interpreter.
    NoInterpreterLine,
    /// There is a byte order mark before its `#!`.
    ByteOrderMark,
    /// There is nothing after its `#!`.
    NoInterpreterNamed,
    /// Its first line is longer than the kernel reads.
    LineTooLong,
    /// It is neither a program of this system nor a script.
    UnknownFormat,
    /// Interpreters lead to interpreters without an end.
    TooDeep,
    /// The interpreter on its first line can't be started.
    Interpreter {
        /// Its name on that line.
        name: String,
        /// The interpreter's defect.
        defect: Box<Defect>,
    },
    /// The loader of its C library can't be started.
    Loader {
        /// Its name in the file.
        name: String,
        /// The loader's defect.
        defect: Box<Defect>,
    },
}

/// The knowledge besides the file itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing was tried: an emulator may run what the processor can't.
    Nothing,
    /// The kernel has refused to start it.
    Refused,
}

/// Returns why this program can't be started, or `Ok` if no reason is found.
pub fn examine(program: Option<&str>, known: Known) -> Result<(), Unfit> {
    let program = program
        .filter(|program| !program.is_empty())
        .ok_or(Unfit::NoCommand)?;
    match search(program, known, 0) {
        Ok(()) => Ok(()),
        Err(Some((path, defect))) => Err(Unfit::File { path, defect }),
        Err(None) => {
            let relative = program.contains('/') && !program.starts_with('/');
            let directory = relative.then(|| std::env::current_dir().unwrap_or_default());
            let program = program.to_owned();
            Err(Unfit::NotFound { program, directory })
        }
    }
}

/// Searches like execvp(3): a name with a slash is a path; another is looked for in `PATH`, skipping files
/// that are missing or may not be executed. `None` if there is no file at all.
fn search(program: &str, known: Known, depth: usize) -> Result<(), Option<(PathBuf, Defect)>> {
    if program.contains('/') {
        let path = PathBuf::from(program);
        return match file(&path, known, depth) {
            Ok(()) => Ok(()),
            Err(Defect::Missing) => Err(None),
            Err(defect) => Err(Some((path, defect))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let mut first = None;
    for folder in std::env::split_paths(&path) {
        let candidate = folder.join(program);
        match file(&candidate, known, depth) {
            Ok(()) => return Ok(()),
            Err(Defect::Missing) => {}
            Err(defect) if defect.is_passed_over() => {
                first.get_or_insert((candidate, defect));
            }
            Err(defect) => return Err(Some((candidate, defect))),
        }
    }
    Err(first)
}

/// Checks that this file can be started.
fn file(path: &Path, known: Known, depth: usize) -> Result<(), Defect> {
    if depth > DEEPEST {
        return Err(Defect::TooDeep);
    }
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Defect::Missing,
        _ => Defect::Unreachable(error.to_string()),
    })?;
    if meta.is_dir() {
        return Err(Defect::Directory);
    }
    // Opening a pipe would wait for its other end.
    if !meta.is_file() {
        return Err(Defect::NotAFile);
    }
    if rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        let flags = rustix::fs::statvfs(path).map(|about| about.f_flag);
        return Err(match flags {
            Ok(flags) if flags.contains(StatVfsMountFlags::NOEXEC) => Defect::NoExecMount,
            _ => Defect::NotExecutable {
                user: rustix::process::geteuid().as_raw(),
            },
        });
    }
    // A file that may be executed but not read can't be judged.
    let Ok(mut file) = File::open(path) else {
        return Ok(());
    };
    match head(&mut file) {
        Ok(head) => content(&head, &file, known, depth),
        Err(_) => Ok(()),
    }
}

fn head(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn content(head: &[u8], whole: &File, known: Known, depth: usize) -> Result<(), Defect> {
    if head.starts_with(elf::MAGIC) {
        return elf::examine(head, whole, known, depth);
    }
    if head.starts_with(b"#!") {
        return script::examine(head, known, depth);
    }
    if known == Known::Nothing && others_may_run_it() {
        return Ok(());
    }
    Err(what_it_is(head))
}

fn what_it_is(head: &[u8]) -> Defect {
    const MACH_O: [&[u8]; 3] = [
        b"\xcf\xfa\xed\xfe",
        b"\xce\xfa\xed\xfe",
        b"\xca\xfe\xba\xbe",
    ];
    if head.is_empty() {
        return Defect::Empty;
    }
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return Defect::ByteOrderMark;
    }
    if head.starts_with(b"MZ") {
        return Defect::OtherSystem("Windows");
    }
    if MACH_O.iter().any(|magic| head.starts_with(magic)) {
        return Defect::OtherSystem("macOS");
    }
    match head.contains(&0) {
        true => Defect::UnknownFormat,
        false => Defect::NoInterpreterLine,
    }
}

/// Whether the kernel has programs that run what it can't run itself (binfmt_misc), such as an emulator.
/// Inside a container they are usually not visible.
fn others_may_run_it() -> bool {
    let Ok(entries) = fs::read_dir("/proc/sys/fs/binfmt_misc") else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| !matches!(entry.file_name().as_bytes(), b"register" | b"status"))
}

// === impl Defect ===

impl Defect {
    /// Whether execvp(3) goes on to the next directory of `PATH`: where execve(2) returns ENOENT or EACCES.
    fn is_passed_over(&self) -> bool {
        match self {
            Self::Missing
            | Self::Unreachable(_)
            | Self::Directory
            | Self::NotAFile
            | Self::NotExecutable { .. }
            | Self::NoExecMount => true,
            Self::Interpreter { defect, .. } | Self::Loader { defect, .. } => {
                defect.is_passed_over()
            }
            _ => false,
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Unreachable(why) => write!(f, "can't be reached ({why})"),
            Self::Directory => f.write_str("is a directory"),
            Self::NotAFile => f.write_str("is not a regular file"),
            Self::NotExecutable { user } => write!(
                f,
                "has no permission to be executed; is it executable for user {user}? (chmod a+rx)"
            ),
            Self::NoExecMount => f.write_str(
                "is on a file system that is mounted 'noexec'; put it on another one, such as the image's",
            ),
            Self::Empty => f.write_str("is empty; was it copied completely?"),
            Self::CutShort => f.write_str(
                "ends before its header does; was it copied completely?",
            ),
            Self::OtherMachine { built_for, here } => write!(
                f,
                "is built for {built_for}, and this machine is {here}; take the build, or the image, for {here}"
            ),
            Self::OtherSystem(system) => write!(f, "is a program for {system}; take the build for Linux"),
            Self::NoInterpreterLine => f.write_str(
                "is a script without a '#!' line; say in its first line what runs it, as in '#!/bin/sh', or configure \
                 that program in front of it, as in 'sh FILE'",
            ),
            Self::ByteOrderMark => f.write_str(
                "begins with a byte order mark, which hides its '#!' line; save it as UTF-8 without one",
            ),
            Self::NoInterpreterNamed => f.write_str(
                "names no interpreter behind its '#!'; name the program that runs it, as in '#!/bin/sh'",
            ),
            Self::LineTooLong => write!(
                f,
                "has a '#!' line of which the kernel reads {HEAD} bytes only; shorten it"
            ),
            Self::UnknownFormat => f.write_str(
                "is neither a program for Linux (ELF) nor a script with a '#!' line",
            ),
            Self::TooDeep => write!(
                f,
                "has an interpreter that is a script, and so on, more than {DEEPEST} deep"
            ),
            Self::Interpreter { name, defect } => interpreter(f, name, defect),
            Self::Loader { name, defect } => write!(
                f,
                "needs the loader '{name}', which {defect}; it is built for another C library (glibc, musl) than the \
                 image has: take a static build, or an image with that library"
            ),
        }
    }
}

fn interpreter(f: &mut fmt::Formatter<'_>, name: &str, defect: &Defect) -> fmt::Result {
    let shown = name.escape_default();
    write!(
        f,
        "needs the interpreter '{shown}' by its '#!' line, which {defect}"
    )?;
    if *defect != Defect::Missing {
        return Ok(());
    }
    if name.ends_with('\r') {
        return f.write_str("; its lines end as on Windows (CR LF): save it with LF alone");
    }
    match (name.contains('/'), name.starts_with('/')) {
        (false, _) => f.write_str("; is it in the image, and on PATH?"),
        (true, true) => f.write_str("; is it in the image?"),
        (true, false) => f.write_str("; name it by its whole path"),
    }
}

// === impl Unfit ===

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => f.write_str("no command is configured for this queue"),
            Self::NotFound {
                program,
                directory: None,
            } => write!(
                f,
                "there is no program '{program}'; is it in the image, and on PATH?"
            ),
            Self::NotFound {
                program,
                directory: Some(directory),
            } if directory.as_os_str().is_empty() => write!(
                f,
                "there is no program '{program}', because the working directory was removed; name it by its whole path"
            ),
            Self::NotFound {
                program,
                directory: Some(directory),
            } => write!(
                f,
                "there is no program '{program}' in the working directory {}; is it in the image? Better name it by its \
                 whole path",
                directory.display()
            ),
            Self::File { path, defect } => write!(f, "'{}' {defect}", path.display()),
        }
    }
}

impl std::error::Error for Unfit {}
