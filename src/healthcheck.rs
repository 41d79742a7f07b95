//! `lameduck healthcheck`: queries a probe of a running process, for `exec` probes and images without curl.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    cli::{Healthcheck, Probe},
    runtime,
};

/// Maximum size of an answer in bytes.
const SAID: usize = 16 << 10;

/// Returns exit status 0 if the probe succeeds; otherwise prints the reason, which the kubelet shows in its Events.
pub fn run(asked: &Healthcheck) -> ExitCode {
    let answer = runtime::of_one_thread().and_then(|runtime| runtime.block_on(ask(asked)));
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lameduck: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(asked: &Healthcheck) -> anyhow::Result<()> {
    let Healthcheck {
        probe,
        admin,
        timeout: patience,
    } = asked;
    let answer = timeout(patience.0, answer(admin.as_str(), *probe))
        .await
        .unwrap_or_else(|_| Err(silent(patience.0)))
        .with_context(|| format!("asking {admin} for {probe}"))?;
    let (status, text) = answer;
    anyhow::ensure!(
        status.is_success(),
        "{probe} says {status}:\n{}",
        text.trim()
    );
    Ok(())
}

async fn answer(admin: &str, probe: Probe) -> anyhow::Result<(http::StatusCode, String)> {
    match admin.strip_prefix("unix:") {
        Some(path) => over(UnixStream::connect(path).await?, probe).await,
        None => over(TcpStream::connect(reachable(admin)).await?, probe).await,
    }
}

async fn over<S>(stream: S, probe: Probe) -> anyhow::Result<(http::StatusCode, String)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(format!("/{probe}"))
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), SAID).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Returns the address to connect to: the loopback if the listener is bound to all addresses. `[::]` accepts IPv4 as
/// well, and without IPv6 in the kernel there is only IPv4.
fn reachable(admin: &str) -> String {
    match admin.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())).to_string()
        }
        _ => admin.to_owned(),
    }
}

fn silent(patience: Duration) -> anyhow::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no answer within {patience:?} (--timeout)"),
    )
    .into()
}

// === impl Probe ===

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Startupz => "startupz",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_all_is_asked_on_the_loopback() {
        assert_eq!(reachable("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(reachable("[::]:9090"), "127.0.0.1:9090");
        assert_eq!(reachable("10.1.2.3:9090"), "10.1.2.3:9090");
        assert_eq!(reachable("jobs.default:9090"), "jobs.default:9090");
    }
}
