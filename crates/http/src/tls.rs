//! TLS with rustls, and certificates that are read again when their files change.
//!
//! A certificate may live shorter than a pod: cert-manager renews it in a Secret, the kubelet replaces the
//! mounted files, and a process that read them only at the start serves an expired one weeks later.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use pin_project_lite::pin_project;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

use super::{
    activity::Activity,
    stream::{Socket, Waiting},
};

pub(super) type TlsStream = tokio_rustls::server::TlsStream<Records<Socket>>;

/// Minimum time between two checks of the files, which happen only when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The TLS configuration of a [`Listener`](super::Listener).
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    files: Option<Arc<Files>>,
}

/// Error when TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read, or contains no PEM of this kind.
    #[error("cannot read {what} from {path}: {error}")]
    Unreadable {
        /// The content of the file: the certificate chain or the private key.
        what: &'static str,
        /// The path of the file.
        path: String,
        /// The reason.
        error: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not match, or are of an unsupported kind.
    #[error("the certificate in {cert} and the key in {key} cannot be used together: {error}")]
    Mismatch {
        /// The path of the certificate.
        cert: String,
        /// The path of the key.
        key: String,
        /// The reason.
        error: rustls::Error,
    },
}

/// The files of a certificate, and the certificate that is served now.
#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    looked: Mutex<(Instant, [Option<Stamp>; 2])>,
}

/// Inode, time and size of a file, which change with its content, even if Kubernetes replaces it by symbolic links.
type Stamp = (u64, SystemTime, u64);

pin_project! {
    /// The bytes below TLS. It follows the records, to know whether part of one has come that rustls can't deliver
    /// yet: a connection in the middle of a record is not idle.
    pub(super) struct Records<T> {
        #[pin]
        inner: T,
        framing: Framing,
        // Whether the handshake is going on. Its bytes count as part of the request to come.
        handshaking: bool,
        activity: Arc<Activity>,
    }
}

/// The position in a record, whose type, version and length are five bytes (RFC 8446, section 5.1).
#[derive(Debug, Default)]
struct Framing {
    head: [u8; 5],
    head_read: usize,
    body_left: usize,
}

// === impl Tls ===

impl Tls {
    /// Serves this certificate chain with this key, both PEM files, and offers HTTP/2 and HTTP/1.1 by ALPN. The
    /// files are read again within seconds after they have changed; as long as they do not match, the
    /// previous certificate stays in use.
    ///
    /// # Errors
    /// Fails if the files can't be read, or do not match.
    pub fn from_pem_files(
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, TlsError> {
        let (cert, key) = (cert.into(), key.into());
        let stamps = stamps(&cert, &key);
        let current = load(&cert, &key)?;
        let files = Arc::new(Files {
            cert,
            key,
            current: RwLock::new(Arc::new(current)),
            looked: Mutex::new((Instant::now(), stamps)),
        });
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_no_client_auth()
            .with_cert_resolver(files.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            files: Some(files),
        })
    }

    /// Uses a configuration of your own, which also covers client certificates and reloading.
    pub fn with_config(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            files: None,
        }
    }

    /// Performs the handshake. The caller limits the peer's time for it.
    pub(super) async fn accept(
        self,
        socket: Socket,
        activity: Arc<Activity>,
    ) -> io::Result<TlsStream> {
        if let Some(files) = self.files {
            files.look_again().await;
        }
        let records = Records {
            inner: socket,
            framing: Framing::default(),
            handshaking: true,
            activity: activity.clone(),
        };
        let mut stream = TlsAcceptor::from(self.config).accept(records).await?;
        stream.get_mut().0.handshaking = false;
        activity.handshaken();
        Ok(stream)
    }
}

// === impl Files ===

impl Files {
    async fn look_again(self: Arc<Self>) {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.0.elapsed() < LOOK_EVERY {
                return;
            }
            looked.0 = Instant::now();
        }
        // A panic in it leaves the certificate as it is.
        let _ = tokio::task::spawn_blocking(move || self.reload()).await;
    }

    fn reload(&self) {
        // The lock is not held while files are read, because every handshake takes it.
        let looked = || self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.cert, &self.key);
        if now == looked().1 {
            return;
        }
        match load(&self.cert, &self.key) {
            Ok(new) => {
                looked().1 = now;
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                tracing::info!(cert = %self.cert.display(), "certificate reloaded");
            }
            // Perhaps only one of the two has been replaced so far: check again next time.
            Err(error) => {
                tracing::warn!(%error, "certificate not reloaded; the old one is served on")
            }
        }
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.clone())
    }
}

fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let unreadable = |what, path: &Path| {
        let path = path.display().to_string();
        move |error| TlsError::Unreadable { what, path, error }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert)
        .map_err(unreadable("the certificate chain", cert))?
        .collect();
    let chain = chain.map_err(unreadable("the certificate chain", cert))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable("the private key", key))?;
    CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(|error| {
        TlsError::Mismatch {
            cert: cert.display().to_string(),
            key: key.display().to_string(),
            error,
        }
    })
}

fn stamps(cert: &Path, key: &Path) -> [Option<Stamp>; 2] {
    [cert, key].map(|path| {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.modified().ok()?, meta.len()))
    })
}

// === impl Records ===

impl<T: Waiting> Waiting for tokio_rustls::server::TlsStream<Records<T>> {
    fn has_waiting_bytes(&self) -> bool {
        let records = self.get_ref().0;
        records.framing.is_inside() || records.inner.has_waiting_bytes()
    }
}

impl<T: AsyncRead> AsyncRead for Records<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.inner.poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        this.framing.read(read);
        if *this.handshaking {
            this.activity.received(read.len());
        }
        this.activity.set_half_record(this.framing.is_inside());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite> AsyncWrite for Records<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

// === impl Framing ===

impl Framing {
    fn is_inside(&self) -> bool {
        self.head_read > 0
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.head_read < self.head.len() {
                let n = bytes.len().min(self.head.len() - self.head_read);
                self.head[self.head_read..][..n].copy_from_slice(&bytes[..n]);
                self.head_read += n;
                bytes = &bytes[n..];
                if self.head_read == self.head.len() {
                    let length = u16::from_be_bytes([self.head[3], self.head[4]]);
                    self.body_left = usize::from(length);
                }
            } else {
                let n = bytes.len().min(self.body_left);
                self.body_left -= n;
                bytes = &bytes[n..];
            }
            if self.head_read == self.head.len() && self.body_left == 0 {
                self.head_read = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_records_are_cut_only_their_ends_are_between_two(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..8),
            piece in 1usize..40,
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for record in &records {
                bytes.extend([23, 3, 3]);
                bytes.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
                bytes.extend(record);
                ends.push(bytes.len());
            }
            let mut framing = Framing::default();
            let mut read = 0;
            for piece in bytes.chunks(piece) {
                framing.read(piece);
                read += piece.len();
                prop_assert_eq!(framing.is_inside(), !ends.contains(&read), "after {} bytes", read);
            }
        }
    }
}
