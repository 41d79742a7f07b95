//! Reverse proxies from Debian, which keep connections to the pods and must not repeat a request.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    clients::{Clients, Kind},
    stage::{Crowd, Seen},
};

/// Who comes through a proxy: what is tried are its own connections to the pods.
const CROWD: &[(Kind, usize)] = &[
    (Kind::KeepAlive, 12),
    (Kind::MostlyIdle, 12),
    (Kind::Fresh, 4),
    (Kind::Slow, 4),
    (Kind::Events, 2),
];

/// Clients, and a proxy between them and the pods.
pub struct Proxied {
    clients: Clients,
    _proxy: Child,
    _dir: TempDir,
}

/// What a proxy speaks to the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    Http1,
    Http2,
}

// === impl Proxied ===

impl Proxied {
    pub async fn by_nginx(pods: SocketAddr) -> Self {
        let (dir, address) = place();
        let root = dir.path().display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {root}/{name};\n"))
            .concat();
        let config = dir.path().join("nginx.conf");
        let text = format!(
            "daemon off;
master_process off;
pid {root}/pid;
error_log stderr error;
events {{}}
http {{
    access_log off;
{temp}
    upstream pods {{
        server {pods};
        keepalive 64;
        keepalive_requests 1000000;
    }}
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' '';
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://pods;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_next_upstream off;
            proxy_buffering off;
        }}
    }}
}}
"
        );
        std::fs::write(&config, text).unwrap();
        let mut nginx = program("nginx");
        nginx.arg("-e").arg("stderr").arg("-c").arg(&config);
        Self::start(nginx, dir, address, &[(Kind::Socket, 2)]).await
    }

    /// Clients may speak h2c to it too, which it recognises by its preface.
    ///
    /// No websockets over HTTP/2 to the pods: we do not offer the extended CONNECT that they need (RFC 8441), and
    /// HAProxy 2.6 then resets a stream which it has never opened. That is a connection error (RFC 9113,
    /// section 6.4), by which all other streams are lost.
    pub async fn by_haproxy(pods: SocketAddr, upstream: Upstream) -> Self {
        let (dir, address) = place();
        let proto = match upstream {
            Upstream::Http1 => "",
            Upstream::Http2 => " proto h2",
        };
        let config = dir.path().join("haproxy.cfg");
        let text = format!(
            "defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s

frontend clients
    bind {address}
    default_backend pods

backend pods
    # The first request of a client's connection takes a used connection too, as a proxy under load does.
    http-reuse always
    server balancer {pods}{proto}
"
        );
        std::fs::write(&config, text).unwrap();
        let mut haproxy = program("haproxy");
        haproxy.arg("-db").arg("-q").arg("-f").arg(&config);
        let more: &[(Kind, usize)] = match upstream {
            Upstream::Http1 => &[(Kind::Http2, 2), (Kind::Socket, 2)],
            Upstream::Http2 => &[(Kind::Http2, 2)],
        };
        Self::start(haproxy, dir, address, more).await
    }

    async fn start(
        mut proxy: Command,
        dir: TempDir,
        address: SocketAddr,
        more: &[(Kind, usize)],
    ) -> Self {
        let child = proxy.kill_on_drop(true).spawn();
        let proxy = child.unwrap_or_else(|error| panic!("{error}; see tests/zoo/prepare"));
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let listening = timeout(Duration::from_secs(10), listens).await;
        listening.expect("the proxy says on standard error why it does not listen");
        Self {
            clients: Clients::start(address, &[CROWD, more].concat()),
            _proxy: proxy,
            _dir: dir,
        }
    }
}

impl Crowd for Proxied {
    fn done(&self) -> u64 {
        Crowd::done(&self.clients)
    }

    async fn stop(self) -> Seen {
        Crowd::stop(self.clients).await
    }
}

/// A directory, and an address that nobody has: a proxy can't be asked which one it took.
fn place() -> (TempDir, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (TempDir::new().unwrap(), listener.local_addr().unwrap())
}

/// Debian has them where only root looks.
fn program(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    match sbin.exists() {
        true => Command::new(sbin),
        false => Command::new(name),
    }
}
