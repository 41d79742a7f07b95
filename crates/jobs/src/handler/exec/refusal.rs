//! The system's refusals to start a command: whose fault each is, how long to wait, and what to do.
//!
//! What a submitter chose is at fault for two of them only, those in which its words are too many or can't be handed
//! over at all. Everything else is the operator's, the image's or the machine's, will be put right by them, and costs
//! the job no attempt. So an error that nobody thought of costs none either.

use std::{io, time::Duration};

use rustix::io::Errno;

use crate::job::Job;
use lameduck_process::{Known, examine};

/// About how long to wait where others have to end first, or to finish what they do to the program.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// About how long where somebody has to bring something.
const LONG_WAIT: Duration = Duration::from_secs(10);
/// What a submitter's words may come to before they are to blame for an environment that is too large. No proper
/// content type is so long.
const MODEST: usize = 4 << 10;

/// Says why this job can never be given to a command, if that is so: what its submitter chose and the command gets by
/// its environment can't be put there.
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

/// The same where the system refused the environment as a whole.
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

/// About how long to wait until it is tried again.
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

/// As [`wait_after`] where the program itself was found to be unfit.
pub(super) fn wait_for_program() -> Duration {
    spread(LONG_WAIT)
}

/// About this long, so that those who met it together do not come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64())
}

/// Whether the system has run out of something.
pub(super) fn is_a_shortage(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| of_a_shortage(errno).is_some())
}

/// What to do about it.
pub(super) fn remedy(program: &str, error: &io::Error) -> String {
    let errno = Errno::from_io_error(error);
    if let Some(remedy) = errno.and_then(of_a_shortage) {
        return remedy.to_owned();
    }
    // The files say more than the system does.
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

/// What to do where the system has run out of something.
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
