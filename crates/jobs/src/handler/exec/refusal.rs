//! The system's refusals to start a command: whose fault each is, how long to wait, and what to do.
//!
//! Only two are the submitter's fault: its values are too long, or can't be passed to a command at all. All others are
//! due to the operator, the image or the machine, will be fixed there, and cost the job no attempt. So an error that
//! nobody thought of costs none either.

use std::{io, time::Duration};

use rustix::io::Errno;

use crate::job::Job;
use lameduck_process::{Known, examine};

/// Approximate wait if other processes have to end first, or to finish writing the program.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// Approximate wait if somebody has to supply something.
const LONG_WAIT: Duration = Duration::from_secs(10);
/// Number of bytes up to which a submitter's values are not blamed for an environment that is too large. No proper
/// content type is that long.
const MODEST: usize = 4 << 10;

/// Returns the reason why this job can never be given to a command, if there is one: a value of its submitter can't be
/// put into the command's environment.
pub(super) fn fault_of(job: &Job) -> Option<String> {
    let has_nul = |text: &str| text.contains('\0');
    let trace = job.traceparent.as_deref().unwrap_or_default();
    for (name, value) in [
        ("content type", job.content_type.as_str()),
        ("traceparent", trace),
    ] {
        if has_nul(value) {
            return Some(format!(
                "the job's {name} contains a NUL character, which no command's environment can hold; submit it without"
            ));
        }
    }
    None
}

/// Returns the same for the case that the system refused the environment as a whole.
pub(super) fn fault_of_size(job: &Job, error: &io::Error) -> Option<String> {
    if Errno::from_io_error(error) != Some(Errno::TOOBIG) {
        return None;
    }
    let trace = job.traceparent.as_ref().map_or(0, String::len);
    let length = job.content_type.len() + trace;
    (length > MODEST).then(|| {
        format!(
            "the job's content type and traceparent, {length} bytes, do not fit into a command's environment ({error}); \
             submit it with shorter ones"
        )
    })
}

/// Returns approximately how long to wait before the next try.
pub(super) fn wait_after(error: &io::Error) -> Duration {
    let wait = match Errno::from_io_error(error) {
        Some(
            Errno::AGAIN
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::NOSPC
            | Errno::TXTBSY,
        ) => SHORT_WAIT,
        _ => LONG_WAIT,
    };
    spread(wait)
}

/// Returns the same as [`wait_after`] for a program that was found to be unfit itself.
pub(super) fn wait_for_program() -> Duration {
    spread(LONG_WAIT)
}

/// Randomizes a wait, so that jobs that failed together do not come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64())
}

/// Whether the system has run out of something.
pub(super) fn is_a_shortage(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| of_a_shortage(errno).is_some())
}

/// Returns the advice on what to do about the error.
pub(super) fn remedy(program: &str, error: &io::Error) -> String {
    let errno = Errno::from_io_error(error);
    if let Some(remedy) = errno.and_then(of_a_shortage) {
        return remedy.to_owned();
    }
    // The files tell more than the system's error does.
    if let Err(unfit) = examine(Some(program), Known::Refused) {
        return unfit.to_string();
    }
    let user = rustix::process::geteuid().as_raw();
    match errno {
        Some(Errno::NOENT | Errno::NOTDIR) => "is it in the image, and on PATH?".to_owned(),
        Some(Errno::ACCESS) => format!(
            "is it executable for user {user}, and is every directory on its path? A security policy (AppArmor, SELinux) \
             may forbid it, too"
        ),
        Some(Errno::PERM) => "a security policy forbids it: seccomp, AppArmor, SELinux, or a capability of the file \
                              that the container does not have"
            .to_owned(),
        Some(Errno::NOEXEC | Errno::LIBBAD) => {
            "the kernel can't run such a file; is it for this machine, and was it copied completely?".to_owned()
        }
        Some(Errno::TXTBSY) => "somebody is writing to it; write a new program under another name and rename it"
            .to_owned(),
        Some(Errno::LOOP) => "its symbolic links go in a circle, or its interpreter is a script of a script of a script"
            .to_owned(),
        Some(Errno::TOOBIG) => "its arguments and the environment of the service are larger than the kernel takes: \
                                128 KiB each, and a quarter of the stack's limit (ulimit -s) together"
            .to_owned(),
        Some(Errno::IO | Errno::STALE | Errno::NXIO | Errno::TIMEDOUT) => {
            "its disk, or its network file system, fails".to_owned()
        }
        _ => "execve(2) and fork(2) say what the system means by that".to_owned(),
    }
}

/// Returns the advice if the system has run out of something.
fn of_a_shortage(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::AGAIN => Some(
            "fewer workers, or a higher limit on processes: the container's (podPidsLimit of the kubelet, pids.max of \
             the cgroup) or the user's (ulimit -u)",
        ),
        Errno::MFILE => Some("fewer workers, or a higher limit on open files (ulimit -n)"),
        Errno::NFILE => {
            Some("the whole machine is out of open files (sysctl fs.file-max): see who holds them")
        }
        Errno::NOMEM | Errno::NOSPC => {
            Some("fewer workers, or more memory (the container's memory limit)")
        }
        _ => None,
    }
}
