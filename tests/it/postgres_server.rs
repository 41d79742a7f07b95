//! A real PostgreSQL for the tests: the one at `TEST_DATABASE_URL`, or one of our own.
//!
//! ```text
//!   first test that needs it ─▶ initdb in memory, one server for the whole binary, on a Unix socket
//!   each store               ─▶ a database of its own, used again when the store is gone
//!   end of the test binary   ─▶ a pipe closes, and a shell ends the server and removes its files
//! ```
//!
//! The same for a PgBouncer in front of it, in transaction mode.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
};

use tokio_postgres::{Client, NoTls, config::Host};

/// Where PostgreSQL's programs are, and as whom they run: it refuses to be root.
pub struct Programs {
    directory: PathBuf,
    user: Option<(String, u32, u32)>,
}

/// A server, for as long as this lives.
pub struct Server {
    url: String,
    /// Where its files are, if it is our own.
    directory: Option<PathBuf>,
    /// Where it takes TCP, and the certificate for `localhost` that it shows there.
    tls: Option<(u16, PathBuf)>,
    /// Its databases that nobody uses.
    free: Mutex<Vec<String>>,
    /// Holds the pipe whose end is the server's.
    shell: Mutex<Option<Child>>,
}

/// A database without any tables.
pub struct Database {
    server: &'static Server,
    name: String,
}

/// The server that all tests share.
pub fn server() -> &'static Server {
    static GIVEN: OnceLock<Server> = OnceLock::new();
    match std::env::var("TEST_DATABASE_URL") {
        Ok(url) => GIVEN.get_or_init(|| Server {
            url,
            directory: None,
            tls: None,
            free: Mutex::default(),
            shell: Mutex::default(),
        }),
        Err(_) => own_server(),
    }
}

/// One of our own, which speaks TLS.
pub fn own_server() -> &'static Server {
    static OWN: OnceLock<Server> = OnceLock::new();
    OWN.get_or_init(Server::start)
}

// === impl Server ===

impl Server {
    /// In memory.
    fn start() -> Self {
        let programs = Programs::find();
        let directory = programs.directory_of_its_own();
        Self::start_in(directory, &programs, false)
    }

    /// On a disk, in a directory of its own, and syncing: as in production, by the defaults, but that tables are
    /// looked after every few seconds and not every minute.
    pub fn on_disk(parent: &Path) -> &'static Self {
        let programs = Programs::find();
        let directory = programs.own(tempfile::Builder::new().prefix("pg-").tempdir_in(parent));
        Box::leak(Box::new(Self::start_in(directory, &programs, true)))
    }

    fn start_in(directory: PathBuf, programs: &Programs, durable: bool) -> Self {
        let data = directory.join("data");
        let made = programs
            .command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .expect("initdb should run");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let certificate = programs.certificate(&directory);
        let port = a_free_port();
        Self {
            url: url(&directory, port),
            tls: Some((port, certificate)),
            free: Mutex::default(),
            shell: Mutex::new(Some(programs.serve(&directory, &data, port, durable))),
            directory: Some(directory),
        }
    }

    /// One that nobody else has, to be restarted at will. Ends with this process.
    pub fn alone() -> &'static Self {
        Box::leak(Box::new(Self::start()))
    }

    /// Ends it by this signal, `INT` for a fast shutdown and `QUIT` for a crash, and returns when it is back.
    pub async fn restart(&self, signal: &str) {
        let file = self.directory.as_ref().expect("our own server").join("pid");
        let pid = || fs::read_to_string(&file).unwrap_or_default();
        let before = pid();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), before.trim()])
            .status();
        assert!(sent.unwrap().success(), "the server should be there");
        while pid() == before || tokio_postgres::connect(&self.url, NoTls).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Ends it and removes its files, before this process ends.
    pub fn end(&self) {
        let shell = self.shell.lock().unwrap().take();
        if let Some(mut shell) = shell {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }

    /// A database that nobody else uses.
    pub async fn database(&'static self) -> Database {
        let admin = self.admin().await;
        let free = self.free.lock().unwrap().pop();
        let name = match free {
            Some(name) => {
                end_connections(&admin, &name).await;
                let (client, _) = connect(&self.url_of(&name)).await;
                let wipe = "DROP SCHEMA IF EXISTS lameduck CASCADE";
                client.batch_execute(wipe).await.unwrap();
                name
            }
            None => {
                let name = format!("test_{}", uuid::Uuid::new_v4().simple());
                let create = format!("CREATE DATABASE {name}");
                admin.batch_execute(&create).await.unwrap();
                name
            }
        };
        Database { server: self, name }
    }

    async fn admin(&self) -> Client {
        connect(&self.url).await.0
    }

    /// This server's URL with another database in it.
    fn url_of(&self, database: &str) -> String {
        let (base, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let (host, _) = base.rsplit_once('/').unwrap();
        format!("{host}/{database}?{query}")
    }
}

// === impl Database ===

impl Database {
    /// Where it is.
    pub fn url(&self) -> String {
        self.server.url_of(&self.name)
    }

    /// Where it is over TCP under this name of the host, with these parameters; and the certificate.
    pub fn over_tls(&self, host: &str, parameters: &str) -> (String, &Path) {
        let (port, certificate) = self.server.tls.as_ref().expect("our own server");
        let name = &self.name;
        let url = format!("postgres://postgres@{host}:{port}/{name}?{parameters}");
        (url, certificate)
    }

    /// A connection to it.
    pub async fn connect(&self) -> Client {
        connect(&self.url()).await.0
    }

    /// From now on nobody has a connection, nor gets one, until it is [`back`](Database::back).
    pub async fn away(&self) {
        let admin = self.server.admin().await;
        let refuse = format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", self.name);
        admin.batch_execute(&refuse).await.unwrap();
        end_connections(&admin, &self.name).await;
    }

    /// The end of an outage.
    pub async fn back(&self) {
        let admin = self.server.admin().await;
        let allow = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.name);
        admin.batch_execute(&allow).await.unwrap();
    }

    /// Ends every connection to it; new ones are welcome.
    pub async fn end_connections(&self) {
        end_connections(&self.server.admin().await, &self.name).await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut free) = self.server.free.lock() {
            free.push(std::mem::take(&mut self.name));
        }
    }
}

async fn end_connections(admin: &Client, database: &str) {
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
               WHERE datname = $1 AND pid <> pg_backend_pid()";
    admin.query(end, &[&database]).await.unwrap();
}

async fn connect(url: &str) -> (Client, tokio::task::JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("connecting to {url}: {error:?}"));
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    (client, driver)
}

fn url(socket: &Path, port: u16) -> String {
    let socket = socket.display().to_string().replace('/', "%2F");
    format!("postgres://postgres@{socket}:{port}/postgres?sslmode=disable")
}

fn a_free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

// === impl Programs ===

impl Programs {
    /// Those that are installed; of several versions the newest.
    pub fn find() -> Self {
        let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let mut debian: Vec<_> = debian
            .filter_map(|version| Some(version.ok()?.path().join("bin")))
            .collect();
        debian.sort();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directory = debian
            .into_iter()
            .rev()
            .chain(std::env::split_paths(&path))
            .find(|directory| directory.join("initdb").is_file());
        let Some(directory) = directory else {
            panic!(
                "these tests need PostgreSQL: apt-get install --no-install-recommends postgresql, or set \
                 TEST_DATABASE_URL to a database whose user may create others"
            );
        };
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        Self {
            directory,
            user: root.then(unprivileged),
        }
    }

    fn directory_of_its_own(&self) -> PathBuf {
        let memory = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir_in("/dev/shm");
        self.own(memory.or_else(|_| tempfile::Builder::new().prefix("pg-").tempdir()))
    }

    /// Who makes it has to remove it.
    fn own(&self, directory: std::io::Result<tempfile::TempDir>) -> PathBuf {
        let directory = directory.unwrap().keep();
        if let Some((_, uid, gid)) = self.user {
            chown(&directory, Some(uid), Some(gid)).unwrap();
        }
        directory
    }

    /// One of them, run as somebody who is not root.
    pub fn command(&self, program: &str) -> Command {
        self.as_somebody(&self.directory.join(program))
    }

    fn as_somebody(&self, program: &Path) -> Command {
        let Some((user, ..)) = &self.user else {
            return Command::new(program);
        };
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={user}"), format!("--regid={user}")])
            .arg("--clear-groups")
            .arg(program);
        command
    }

    /// For `localhost`, by nobody but itself. The server's key has to be its own to read.
    fn certificate(&self, directory: &Path) -> PathBuf {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((_, uid, gid)) = self.user {
            chown(&key, Some(uid), Some(gid)).unwrap();
        }
        certificate
    }

    fn serve(&self, directory: &Path, data: &Path, port: u16, durable: bool) -> Child {
        let mut server = self.command("postgres");
        server
            .arg("-D")
            .arg(data)
            .arg("-k")
            .arg(directory)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=localhost"])
            .args(["-c", "ssl=on", "-c", "max_connections=400"])
            .args([
                "-c",
                &format!("ssl_cert_file={}", directory.join("tls.crt").display()),
            ])
            .args([
                "-c",
                &format!("ssl_key_file={}", directory.join("tls.key").display()),
            ])
            .args(["-c", "shared_buffers=64MB"]);
        match durable {
            true => server.args(["-c", "autovacuum_naptime=2s"]),
            false => server.args(["-c", "fsync=off"]),
        };
        while_this_process_lives(&server, directory, "ready to accept", "QUIT")
    }
}

/// Starts a server, and returns once it has said that it is ready. Whenever it ends it is started again. It ends
/// for good, and its directory goes, when the handle does or this process, however it ends.
fn while_this_process_lives(
    server: &Command,
    directory: &Path,
    ready: &str,
    at_the_end: &str,
) -> Child {
    let script = "\
        trap '' INT TERM HUP
        directory=$1; ready=$2; signal=$3; shift 3
        log=$directory/log; pid=$directory/pid; over=$directory/over
        : >\"$log\"
        (
            while :; do
                \"$@\" >>\"$log\" 2>&1 &
                echo $! >\"$pid\"
                wait $!
                [ ! -e \"$over\" ] && grep -q \"$ready\" \"$log\" || exit
            done
        ) >/dev/null &
        keeper=$!
        until grep -q \"$ready\" \"$log\"; do
            kill -0 $keeper || { cat \"$log\"; echo failed; exit 1; }
            sleep 0.02
        done
        echo ready
        exec >/dev/null
        read -r _
        : >\"$over\"
        kill -$signal \"$(cat \"$pid\")\"
        wait $keeper
        rm -rf \"$directory\"";
    // The pipe closes however this process ends, and then the shell reads no line.
    let mut shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(directory)
        .args([ready, at_the_end])
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell should run");
    let said: Vec<_> = BufReader::new(shell.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .take_while(|line| line != "ready" && line != "failed")
        .collect();
    let program = server.get_program();
    assert!(
        shell.try_wait().unwrap().is_none(),
        "{program:?} did not start: {said:?}"
    );
    shell
}

/// A PgBouncer in transaction mode in front of a database.
pub struct PgBouncer {
    url: String,
    shell: Child,
}

impl PgBouncer {
    /// With so few connections that transactions have to take turns.
    pub fn in_front_of(database: &Database) -> Self {
        let found = Path::new("/usr/sbin/pgbouncer");
        let program = match found.is_file() {
            true => found,
            false => Path::new("pgbouncer"),
        };
        let programs = Programs::find();
        let directory = programs.directory_of_its_own();
        let behind: tokio_postgres::Config = database.url().parse().unwrap();
        let host = match &behind.get_hosts()[0] {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let user = behind.get_user().unwrap();
        let port = behind.get_ports().first().unwrap_or(&5432);
        let password = behind.get_password().map(String::from_utf8_lossy);
        let password = password.map_or(String::new(), |p| format!(" password={p}"));
        let (users, config) = (directory.join("users"), directory.join("config"));
        fs::write(&users, format!("\"{user}\" \"\"\n")).unwrap();
        let settings = format!(
            "[databases]\n* = host={host} port={port} user={user}{password}\n\
             [pgbouncer]\npool_mode = transaction\ndefault_pool_size = 2\n\
             listen_addr =\nlisten_port = 6432\nunix_socket_dir = {}\n\
             auth_type = trust\nauth_file = {}\n",
            directory.display(),
            users.display()
        );
        fs::write(&config, settings).unwrap();
        let mut server = programs.as_somebody(program);
        server.arg(&config);
        Self {
            url: format!(
                "postgres://{user}@{}:6432/{}?sslmode=disable",
                directory.display().to_string().replace('/', "%2F"),
                database.name
            ),
            shell: while_this_process_lives(&server, &directory, "process up", "TERM"),
        }
    }

    /// The way to the database through it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn unprivileged() -> (String, u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        let (uid, gid) = (fields.next()?.ok()?, fields.next()?.ok()?);
        Some((name.to_owned(), uid, gid))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .expect("somebody who is not root")
}
