//! The addresses that the program listens on, and advice if one is refused.

use std::{io, path::PathBuf};

use lameduck::prelude::*;
use lameduck::{
    Lifecycle,
    api::Gate,
    http::{Listener, Tls, TlsError},
};

use crate::config::ProcessValues;

/// Port that Prometheus itself listens on.
const OF_PROMETHEUS: &str = ":9090";

/// Both listeners, bound.
#[derive(Debug)]
pub struct Listeners {
    api: Listener,
    admin: Listener,
}

/// Error when an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The operating system refuses the address.
    #[error("cannot listen on {address} (setting '{setting}'): {error}{}", hint(.setting, .address, .error))]
    Refused {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
        /// The operating system's error.
        error: io::Error,
    },
    /// The certificate or its key can't be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

// === impl Listeners ===

impl Listeners {
    /// Binds the addresses of the settings.
    pub async fn bind(
        process: &ProcessValues,
        tls: Option<&(PathBuf, PathBuf)>,
    ) -> Result<Self, ListenError> {
        let mut api = bind("listen", process.listen.as_str()).await?;
        if let Some((cert, key)) = tls {
            api = api.tls(Tls::from_pem_files(cert, key)?);
        }
        let admin = bind("admin", process.admin.as_str()).await?;
        announce("listen", &api);
        announce("admin", &admin);
        Ok(Self { api, admin })
    }

    /// Serves probes and metrics on one listener, and the API on the other.
    pub fn serve(self, lifecycle: Lifecycle, api: &Gate) -> Lifecycle {
        lifecycle
            .admin(self.admin)
            .http("api", self.api, api.router())
    }
}

/// Logs where a listener listens.
pub fn announce(setting: &'static str, listener: &Listener) {
    let address = listener.local_addr().unwrap_or_default();
    tracing::info!(address, setting, "listening");
}

/// Binds the address of a setting.
pub async fn bind(setting: &'static str, address: &str) -> Result<Listener, ListenError> {
    let bound = Listener::bind(address).await;
    bound.map_err(|error| ListenError::Refused {
        setting,
        address: address.to_owned(),
        error,
    })
}

// === impl ListenError ===

impl ListenError {
    /// Whether another program listens there already.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.kind() == io::ErrorKind::AddrInUse)
    }
}

fn hint(setting: &str, address: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse if address.ends_with(OF_PROMETHEUS) => {
            "another program listens there; 9090 is also Prometheus' own port. End that program, or give this \
             setting another port"
        }
        io::ErrorKind::AddrInUse => {
            "another program listens there: end it, or give this setting another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 127.0.0.1 stands for this machine alone, 0.0.0.0 and [::] for \
             all of its addresses"
        }
        io::ErrorKind::PermissionDenied if address.starts_with("unix:") => {
            "its folder has to be writable for the user that this program runs as"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); take one above"
        }
        io::ErrorKind::NotFound if address.starts_with("unix:") => "make its folder first",
        _ if error.raw_os_error().is_none() => "its host's name has no address",
        _ => return String::new(),
    };
    format!("; {advice} (--{setting})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_named_with_its_setting_and_a_way_out() {
        let refused = |address: &str, kind: io::ErrorKind| ListenError::Refused {
            setting: "admin",
            address: address.to_owned(),
            error: kind.into(),
        };
        let said = refused("127.0.0.1:9090", io::ErrorKind::AddrInUse).to_string();
        for words in ["'admin'", "127.0.0.1:9090", "Prometheus", "--admin"] {
            assert!(said.contains(words), "{said}");
        }
        let said = refused("127.0.0.1:8080", io::ErrorKind::AddrInUse).to_string();
        assert!(
            !said.contains("Prometheus") && said.contains("another port"),
            "{said}"
        );
        let said = refused("0.0.0.0:80", io::ErrorKind::PermissionDenied).to_string();
        assert!(said.contains("below 1024"), "{said}");
    }
}
