//! Describes kube's errors without revealing secrets.
//!
//! Some of them repeat the output of the command that a kubeconfig names for credentials, or that command with its
//! variables. Both may contain a token.

use std::error::Error;

use kube::client::AuthError;

/// Describes an error of kube's client without anything that may be a secret.
pub fn describe(error: &kube::Error) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(found) = cause {
        match found.downcast_ref::<AuthError>() {
            Some(AuthError::AuthExecRun { out, .. }) => {
                return format!(
                    "the command that makes credentials ended with {}; run it by hand to see why",
                    out.status
                );
            }
            Some(AuthError::AuthExecParse(_)) => {
                return "the command that makes credentials printed something other than an ExecCredential".to_owned();
            }
            _ => cause = found.source(),
        }
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Output};

    use super::*;

    #[test]
    fn nothing_that_a_command_printed_is_repeated() {
        let out = Output {
            status: ExitStatusExt::from_raw(256),
            stdout: b"S3cret".to_vec(),
            stderr: b"S3cret".to_vec(),
        };
        let cmd = "TOKEN=S3cret login".to_owned();
        let failed = || AuthError::AuthExecRun {
            cmd: cmd.clone(),
            out: Box::new(out.clone()),
        };
        for error in [
            kube::Error::Auth(failed()),
            kube::Error::Service(Box::new(failed())),
        ] {
            assert!(error.to_string().contains("S3cret"));
            let said = describe(&error);
            assert!(said.contains("exit status: 1"), "{said}");
            assert!(!said.contains("S3cret"), "{said}");
        }
    }
}
