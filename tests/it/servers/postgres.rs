//! One PostgreSQL for all tests of a run, with a fresh database for each that asks. The measurements in `benches` use
//! it too.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::daemon::{Daemon, User, free_port, need, text};
use crate::waiting::until;

const USER: User = User::Any("postgres");

/// The password of the cluster's only user, `aftercall`.
const PASSWORD: &str = "square-silver-2806";

/// Makes an empty database and gives its URL. The cluster starts with the first call and ends with the process.
pub(crate) fn database() -> String {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static MADE: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(Cluster::start);
    let name = format!("test_{}", MADE.fetch_add(1, Ordering::Relaxed));
    // Nobody can be connected to template0, which would be in the way.
    ask(&cluster.url("postgres"), &format!("CREATE DATABASE {name} TEMPLATE template0"));
    cluster.url(&name)
}

/// What a database answers to one statement, rows as lines. `url` is of [`database`].
pub(crate) fn ask(url: &str, statement: &str) -> String {
    let psql = programs().join("psql");
    USER.run(&[text(&psql), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, url])
}

/// A running cluster. It is never dropped, so its folder is only the keeper's to remove.
struct Cluster {
    daemon: Daemon,
    port: u16,
}

impl Cluster {
    fn start() -> Self {
        let (folder, port) = (USER.folder().keep(), free_port());
        let path = |name: &str| text(&folder.join(name)).to_owned();
        std::fs::write(path("password"), PASSWORD).unwrap();
        let (data, password) = (path("data"), format!("--pwfile={}", path("password")));
        let initdb = programs().join("initdb");
        let form = ["--auth=scram-sha-256", "--username=aftercall", "--encoding=UTF8", "--locale=C.UTF-8"];
        let what = [text(&initdb), "--no-sync", &password, "-D", &data];
        USER.run(&what.into_iter().chain(form).collect::<Vec<_>>());
        let (program, port_text) = (programs().join("postgres"), port.to_string());
        let place = ["-D", &data, "-k", text(&folder), "-h", "127.0.0.1", "-p", &port_text];
        // A store must be measured and killed as it will run.
        let command = [&[text(&program)], &place[..], &["-c", "fsync=on"]].concat();
        // SIGINT ends it without waiting for those who are connected.
        let cluster = Self { daemon: Daemon::start(&folder, USER, "INT", &command), port };
        until("PostgreSQL", || {
            cluster.daemon.check();
            let ready = programs().join("pg_isready");
            let arguments = ["-q", "-h", "127.0.0.1", "-p", &port_text];
            let status = std::process::Command::new(ready).args(arguments).status().unwrap();
            status.success().then_some(())
        });
        cluster
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://aftercall:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }
}

/// The folder with the newest version's programs.
fn programs() -> PathBuf {
    let root = need("postgresql", &["/usr/lib/postgresql"]);
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let versions = std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    let newest = versions.filter(|path| path.join("bin/initdb").exists()).max_by_key(version);
    newest
        .unwrap_or_else(|| panic!("Debian's package postgresql is missing; .ci/run installs it"))
        .join("bin")
}

#[test]
fn each_database_of_the_cluster_is_empty_and_keeps_to_itself() {
    let (one, other) = (database(), database());
    assert_ne!(one, other);
    ask(&one, "CREATE TABLE mail (id bigint PRIMARY KEY, subject text)");
    ask(&one, "INSERT INTO mail VALUES (1, 'Grüße 日本')");
    assert_eq!(ask(&one, "SELECT subject FROM mail"), "Grüße 日本\n");
    assert_eq!(ask(&other, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0\n");
    assert_eq!(ask(&other, "SHOW fsync"), "on\n");
}
