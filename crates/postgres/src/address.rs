//! Where the database is, and what its certificate has to prove.
//!
//! | `sslmode` in the URL | the connection is | the server is |
//! | --- | --- | --- |
//! | `disable` | plain | trusted without a check |
//! | `prefer` (default) | encrypted where the server can | trusted without a check |
//! | `require` | encrypted | trusted without a check |
//! | `verify-full` | encrypted | checked: its certificate is for this host, by an authority of the system or of `sslrootcert` |
//!
//! These are libpq's words, with the same meaning. [`connection_string`] reads the other parameters.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres::{
    Client, Config, Connection, Error, Socket,
    config::{Host, SslMode, TargetSessionAttrs},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use lameduck_jobs::engine::EngineError;

mod connection_string;

pub use connection_string::{ConnectionString, InvalidConnectionString};

/// Parameters that tokio-postgres does not know, or reads in another unit.
const OURS: [&str; 10] = [
    "sslmode",
    "sslrootcert",
    "sslsni",
    "sslcompression",
    "gssencmode",
    "client_encoding",
    "replication",
    "keepalives_count",
    "fallback_application_name",
    "tcp_user_timeout",
];

/// A connection for the caller to drive.
type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The configuration of connections to the database.
#[derive(Clone)]
pub(super) struct Address {
    pub config: Config,
    pub tls: MakeRustlsConnect,
}

/// The proof that the server's certificate has to give.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trust {
    Anybody,
    Certified,
}

/// The part of a connection string that is about TLS.
#[derive(Debug, PartialEq)]
struct Tls {
    mode: SslMode,
    trust: Trust,
    roots: Option<PathBuf>,
}

// === impl Address ===

impl Address {
    /// Reads a URL (`postgres://user:password@host:5432/database?sslmode=verify-full`). A connection has to
    /// be established within `patience`.
    pub fn parse(url: &str, patience: Duration) -> Result<Self, EngineError> {
        let address: ConnectionString = url.parse().map_err(|error| unusable(&error))?;
        let tls = Tls::of(&address);
        // tokio-postgres has different names for these two.
        let mut words = address.words(&OURS);
        for (name, ours) in [
            ("keepalives_count", "keepalives_retries"),
            ("fallback_application_name", "application_name"),
        ] {
            if let Some(value) = address.get(name).filter(|_| address.get(ours).is_none()) {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                words += &format!(" {ours}='{value}'");
            }
        }
        let mut config = Config::from_str(&words).map_err(|error| unusable(&describe(&error)))?;
        config.ssl_mode(tls.mode);
        if config.get_application_name().is_none() {
            config.application_name("lameduck");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(patience);
        }
        // After a failover the old primary may still answer, as a standby.
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        // A server that vanished without closing the connection is noticed in a few times `patience`, not in hours.
        let patience = patience.max(Duration::from_secs(1));
        let given = |name| {
            address
                .get(name)
                .and_then(|value| value.parse::<u64>().ok())
        };
        let milliseconds = given("tcp_user_timeout").map(Duration::from_millis);
        config.tcp_user_timeout(milliseconds.unwrap_or(patience));
        let seconds = |name| given(name).map_or(patience, Duration::from_secs);
        config.keepalives_idle(seconds("keepalives_idle"));
        config.keepalives_interval(seconds("keepalives_interval"));
        if given("keepalives_count").is_none() {
            config.keepalives_retries(2);
        }
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(tls.client()?),
        })
    }

    /// Opens a connection, which the caller has to drive.
    pub async fn connect(&self) -> Result<(Client, Driver), Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// Returns the address without the password, for messages.
    pub fn to_people(&self) -> String {
        let hosts: Vec<_> = self
            .config
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let database = self.config.get_dbname().or(self.config.get_user());
        format!("'{}' on {}", database.unwrap_or_default(), hosts.join(", "))
    }
}

fn describe(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn unusable(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Unusable {
        context: "reading the database's URL".to_owned(),
        message: why.to_string(),
    }
}

// === impl Tls ===

impl Tls {
    /// Reads the parameters as libpq does: `prefer` is the default, but the system's authorities are only
    /// used where the host name is checked.
    fn of(address: &ConnectionString) -> Self {
        let roots = address.get("sslrootcert");
        let default = match roots {
            Some("system") => "verify-full",
            _ => "prefer",
        };
        let (mode, trust) = match address.get("sslmode").unwrap_or(default) {
            "disable" => (SslMode::Disable, Trust::Anybody),
            "require" => (SslMode::Require, Trust::Anybody),
            "verify-full" => (SslMode::Require, Trust::Certified),
            _ => (SslMode::Prefer, Trust::Anybody),
        };
        Self {
            mode,
            trust,
            roots: roots.filter(|roots| *roots != "system").map(PathBuf::from),
        }
    }

    fn client(&self) -> Result<ClientConfig, EngineError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| no_tls(&error))?;
        Ok(match self.trust {
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Believing(provider)))
                .with_no_client_auth(),
            Trust::Certified => builder
                .with_root_certificates(self.roots()?)
                .with_no_client_auth(),
        })
    }

    fn roots(&self) -> Result<RootCertStore, EngineError> {
        let mut roots = RootCertStore::empty();
        match &self.roots {
            Some(path) => {
                let bad = |error: &dyn std::fmt::Display| {
                    no_tls(&format!("sslrootcert {}: {error}", path.display()))
                };
                for certificate in
                    CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))?
                {
                    let certificate = certificate.map_err(|error| bad(&error))?;
                    roots.add(certificate).map_err(|error| bad(&error))?;
                }
                if roots.is_empty() {
                    return Err(bad(&"there is no certificate in it"));
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(no_tls(
                        &"this system has no certificates of authorities: install ca-certificates, or name a \
                          file by sslrootcert=/path in the database's URL",
                    ));
                }
            }
        }
        Ok(roots)
    }
}

fn no_tls(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Unusable {
        context: "preparing TLS to the database".to_owned(),
        message: why.to_string(),
    }
}

/// Accepts any certificate, as libpq does below `verify-full`; the server must still prove that it has the
/// private key.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

// === impl Believing ===

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_about_tls_are_understood() {
        let tls = |text: &str| Tls::of(&text.parse().unwrap());
        assert_eq!(
            tls(
                "postgres://u:p@h/d?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fetc%2Fca.pem"
            ),
            Tls {
                mode: SslMode::Require,
                trust: Trust::Certified,
                roots: Some("/etc/ca.pem".into()),
            }
        );
        assert_eq!(tls("postgres://h/d").mode, SslMode::Prefer);
        let system = tls("host=h sslrootcert=system");
        assert_eq!((system.trust, system.roots), (Trust::Certified, None));
    }

    #[test]
    fn tokio_postgres_is_told_what_the_connection_string_says() {
        let patience = Duration::from_secs(1);
        let config = |text: &str| Address::parse(text, patience).unwrap().config;
        let two = config("postgres://u:p%27w@a:1,b:2/d?connect_timeout=3&keepalives_count=4");
        assert_eq!(
            two.get_hosts(),
            [Host::Tcp("a".into()), Host::Tcp("b".into())]
        );
        assert_eq!(two.get_ports(), [1, 2]);
        assert_eq!(two.get_password(), Some(&b"p'w"[..]));
        assert_eq!(two.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(two.get_keepalives_retries(), Some(4));
        assert_eq!(two.get_keepalives_idle(), patience);
        let patient = config("host=h keepalives_idle=30 tcp_user_timeout=1500");
        assert_eq!(patient.get_keepalives_idle(), Duration::from_secs(30));
        let unanswered = Duration::from_millis(1500);
        assert_eq!(patient.get_tcp_user_timeout(), Some(&unanswered));
        let socket = config("postgres://u@/d?host=/run/pg&fallback_application_name=x");
        assert_eq!(socket.get_hosts(), [Host::Unix("/run/pg".into())]);
        assert_eq!(socket.get_application_name(), Some("x"));
        let words = config(
            "host=h gssencmode=disable client_encoding=UTF8 sslsni=1 application_name='a b'",
        );
        assert_eq!(words.get_application_name(), Some("a b"));
    }

    #[test]
    fn a_bad_url_is_refused_without_telling_its_password() {
        let Err(error) = Address::parse("postgres://u:secret/pw@h/d", Duration::from_secs(1))
        else {
            panic!("it was taken");
        };
        let error = error.to_string();
        assert!(error.contains("postgres://user"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn the_address_is_told_without_its_password() {
        let address = Address::parse("postgres://u:secret@h/d", Duration::from_secs(1)).unwrap();
        assert_eq!(address.to_people(), "'d' on h");
    }
}
