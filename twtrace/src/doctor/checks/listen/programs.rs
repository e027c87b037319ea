//! What programs hand to listen() if nobody tells them otherwise, and the line of their own configuration that tells them.

use std::net::{IpAddr, SocketAddr};

use crate::{
    doctor::{checks::is_program, facts::Machine},
    host::sockets::Listener,
};

/// A program, or a kind of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// As people call it.
    pub title: &'static str,
    /// Names of its processes.
    comms: &'static [&'static str],
    /// One of these is in its command line; none: the name is enough.
    words: &'static [&'static str],
    /// What it takes if nobody tells it.
    pub unset: Unset,
    /// The line that sets it, with `{backlog}`, `{port}` and the place in the program's own spelling: `{nginx}` (`80`,
    /// `127.0.0.1:80`) or `{bind}` (`*:80`, `127.0.0.1:80`). Empty: there is none.
    line: &'static str,
    /// Where that is documented.
    pub source: &'static str,
}

/// A backlog that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// One of these numbers.
    Of(&'static [u32]),
    /// net.core.somaxconn, read when it begins to listen.
    Somaxconn,
    /// The default of another setting of its own.
    Setting(&'static str),
}

const fn by_name(
    title: &'static str,
    comms: &'static [&'static str],
    unset: Unset,
    line: &'static str,
    source: &'static str,
) -> Program {
    Program { title, comms, words: &[], unset, line, source }
}

const fn by_words(
    title: &'static str,
    comms: &'static [&'static str],
    words: &'static [&'static str],
    unset: Unset,
    line: &'static str,
    source: &'static str,
) -> Program {
    Program { title, comms, words, unset, line, source }
}

const JAVA: &[&str] = &["java"];
const PYTHON: &[&str] = &["python"];
const RUBY: &[&str] = &["ruby"];
const ERLANG: &[&str] = &["beam.smp"];
/// Servers written in Go: net.Listen() hands over somaxconn, and takes no number.
const GO: &[&str] = &[
    "caddy",
    "traefik",
    "etcd",
    "dockerd",
    "docker-proxy",
    "containerd",
    "kubelet",
    "kube-apiserver",
    "kube-proxy",
    "coredns",
    "prometheus",
    "alertmanager",
    "node_exporter",
    "grafana",
    "grafana-server",
    "loki",
    "minio",
    "consul",
    "vault",
    "nomad",
    "influxd",
    "gitea",
    "gitaly",
    "registry",
    "cloudflared",
    "frps",
    "frpc",
];

/// The first that fits is taken: what is recognised by its command line stands before the language that it is written in.
pub const PROGRAMS: &[Program] = &[
    by_name(
        "nginx",
        &["nginx", "openresty", "angie"],
        Unset::Of(&[511]),
        "listen {nginx} backlog={backlog};",
        "nginx.org: ngx_http_core_module, listen: backlog",
    ),
    by_name(
        "HAProxy",
        &["haproxy"],
        Unset::Setting("maxconn of the frontend"),
        "bind {bind} backlog {backlog}",
        "HAProxy configuration manual: backlog",
    ),
    by_name(
        "Envoy",
        &["envoy"],
        Unset::Somaxconn,
        "tcp_backlog_size: {backlog}",
        "Envoy API: config.listener.v3.Listener, tcp_backlog_size",
    ),
    by_name(
        "Apache",
        &["apache2", "httpd"],
        Unset::Of(&[511]),
        "ListenBacklog {backlog}",
        "Apache HTTP Server: mpm_common, ListenBacklog",
    ),
    by_name(
        "Redis",
        &["redis-server", "valkey-server", "keydb-server"],
        Unset::Of(&[511]),
        "tcp-backlog {backlog}",
        "redis.conf: tcp-backlog",
    ),
    by_name(
        "PHP-FPM",
        &["php-fpm"],
        Unset::Of(&[511]),
        "listen.backlog = {backlog}",
        "PHP manual: FPM configuration, listen.backlog",
    ),
    by_name(
        "Node.js",
        // Newer releases call their main thread so.
        &["node", "nodejs", "node-MainThread"],
        Unset::Of(&[511]),
        "server.listen({ port: {port}, backlog: {backlog} })",
        "Node.js: net, server.listen(options)",
    ),
    by_name(
        "PostgreSQL",
        &["postgres", "postmaster"],
        Unset::Setting("twice max_connections"),
        "max_connections = {half}",
        "PostgreSQL: src/backend/libpq/pqcomm.c, ListenServerPort",
    ),
    by_name(
        "PgBouncer",
        &["pgbouncer"],
        Unset::Of(&[128]),
        "listen_backlog = {backlog}",
        "PgBouncer: config, listen_backlog",
    ),
    by_name(
        "MySQL",
        &["mysqld", "mariadbd"],
        // 8.0: max_connections; before, and in MariaDB, 50 and a fifth of it.
        Unset::Of(&[151, 80]),
        "back_log = {backlog}",
        "MySQL: server system variables, back_log",
    ),
    by_name("memcached", &["memcached"], Unset::Of(&[1024]), "memcached -b {backlog}", "memcached(1): -b"),
    by_name("uWSGI", &["uwsgi"], Unset::Of(&[100]), "listen = {backlog}", "uWSGI: options, listen"),
    by_name(
        "lighttpd",
        &["lighttpd"],
        Unset::Of(&[1024]),
        "server.listen-backlog = {backlog}",
        "lighttpd: server.listen-backlog",
    ),
    by_name(
        "Varnish",
        &["varnishd", "cache-main"],
        Unset::Of(&[1024]),
        "-p listen_depth={backlog}",
        "varnishd(1): listen_depth",
    ),
    by_name("Go", GO, Unset::Somaxconn, "", "Go: src/net/sock_linux.go, maxListenerBacklog"),
    by_words(
        "Tomcat",
        JAVA,
        &["org.apache.catalina", "spring-boot", "tomcat"],
        Unset::Of(&[100]),
        "<Connector port=\"{port}\" acceptCount=\"{backlog}\" />, or server.tomcat.accept-count={backlog} in Spring Boot",
        "Tomcat: HTTP Connector, acceptCount",
    ),
    by_words(
        "Kafka",
        JAVA,
        &["kafka.Kafka"],
        Unset::Of(&[50]),
        "socket.listen.backlog.size={backlog}",
        "Kafka: broker configuration, socket.listen.backlog.size",
    ),
    by_words(
        "Jetty",
        JAVA,
        &["org.eclipse.jetty", "jetty"],
        Unset::Of(&[50]),
        "jetty.http.acceptQueueSize={backlog}",
        "Jetty: ServerConnector, acceptQueueSize",
    ),
    by_words(
        "Netty",
        JAVA,
        &["netty", "vertx", "elasticsearch", "opensearch", "cassandra"],
        Unset::Somaxconn,
        "bootstrap.option(ChannelOption.SO_BACKLOG, {backlog})",
        "Netty: io.netty.util.NetUtil, SOMAXCONN",
    ),
    by_name(
        "Java",
        JAVA,
        Unset::Of(&[50]),
        "new ServerSocket({port}, {backlog}), or acceptCount=\"{backlog}\" in Tomcat, or SO_BACKLOG in Netty",
        "java.net.ServerSocket",
    ),
    by_name(
        "Gunicorn",
        &["gunicorn", "gunicorn3", "gunicorn: maste"],
        Unset::Of(&[2048]),
        "gunicorn --backlog {backlog}",
        "Gunicorn: settings, backlog",
    ),
    by_name("Uvicorn", &["uvicorn"], Unset::Of(&[2048]), "uvicorn --backlog {backlog}", "Uvicorn: settings, --backlog"),
    by_name(
        "Hypercorn",
        &["hypercorn"],
        Unset::Of(&[100]),
        "hypercorn --backlog {backlog}",
        "Hypercorn: configuration, backlog",
    ),
    by_words(
        "Gunicorn",
        PYTHON,
        &["gunicorn"],
        Unset::Of(&[2048]),
        "gunicorn --backlog {backlog}",
        "Gunicorn: settings, backlog",
    ),
    by_words(
        "Uvicorn",
        PYTHON,
        &["uvicorn"],
        Unset::Of(&[2048]),
        "uvicorn --backlog {backlog}",
        "Uvicorn: settings, --backlog",
    ),
    by_words(
        "Hypercorn",
        PYTHON,
        &["hypercorn"],
        Unset::Of(&[100]),
        "hypercorn --backlog {backlog}",
        "Hypercorn: configuration, backlog",
    ),
    by_name(
        "Python",
        PYTHON,
        // socketserver, asyncio, Werkzeug and aiohttp.
        Unset::Of(&[5, 100, 128]),
        "socket.listen({backlog}), or request_queue_size = {backlog} in socketserver, or backlog={backlog} in asyncio",
        "Python: socketserver.BaseServer.request_queue_size, loop.create_server",
    ),
    by_name(
        "Puma",
        &["puma", "puma: cluster w"],
        Unset::Of(&[1024]),
        "bind \"tcp://{tcp}?backlog={backlog}\"",
        "Puma: Puma::DSL#bind",
    ),
    by_name(
        "Unicorn",
        &["unicorn", "unicorn_rails"],
        Unset::Of(&[1024]),
        "listen {port}, backlog: {backlog}",
        "Unicorn::Configurator#listen",
    ),
    by_words(
        "Puma",
        RUBY,
        &["puma"],
        Unset::Of(&[1024]),
        "bind \"tcp://{tcp}?backlog={backlog}\"",
        "Puma: Puma::DSL#bind",
    ),
    by_words(
        "Unicorn",
        RUBY,
        &["unicorn"],
        Unset::Of(&[1024]),
        "listen {port}, backlog: {backlog}",
        "Unicorn::Configurator#listen",
    ),
    by_words(
        "RabbitMQ",
        ERLANG,
        &["rabbit"],
        Unset::Of(&[128]),
        "tcp_listen_options.backlog = {backlog}",
        "RabbitMQ: networking, tcp_listen_options.backlog",
    ),
    by_name(
        "Erlang",
        ERLANG,
        Unset::Of(&[5, 128, 1024]),
        "gen_tcp:listen({port}, [{backlog, {backlog}}])",
        "Erlang: gen_tcp:listen/2, backlog",
    ),
    by_name("sshd", &["sshd"], Unset::Of(&[128]), "", "OpenSSH: sshd.c, SSH_LISTEN_BACKLOG"),
];

impl Program {
    /// The program that listens here; `None`: not known, or not one of these.
    #[must_use]
    pub fn of(machine: &Machine, listener: &Listener) -> Option<&'static Self> {
        let owner = machine.owner(listener.inode)?;
        let command = machine.commands.get(&owner.pid).map(String::as_str).unwrap_or_default();
        Self::named(owner.comm, command)
    }

    fn named(comm: &str, command: &str) -> Option<&'static Self> {
        PROGRAMS.iter().find(|program| {
            let is_it = |name: &&str| comm == *name || is_program(comm, name);
            let is_kind = program.words.is_empty() || program.words.iter().any(|word| command.contains(word));
            program.comms.iter().any(is_it) && is_kind
        })
    }

    /// This backlog is what it takes if nobody tells it otherwise; `cap`: net.core.somaxconn.
    #[must_use]
    pub fn takes(&self, backlog: u32, cap: u64) -> bool {
        match self.unset {
            Unset::Of(numbers) => numbers.contains(&backlog),
            Unset::Somaxconn => u64::from(backlog) == cap,
            Unset::Setting(_) => false,
        }
    }

    /// The line that sets a backlog at this place; `None` if nothing of its own sets it.
    #[must_use]
    pub fn line(&self, listener: &Listener, backlog: u64) -> Option<String> {
        if self.line.is_empty() {
            return None;
        }
        let place = SocketAddr::new(listener.address, listener.port);
        let is_any4 = listener.address == IpAddr::from([0; 4]);
        let nginx = if is_any4 { listener.port.to_string() } else { place.to_string() };
        let bind = if is_any4 { format!("*:{}", listener.port) } else { place.to_string() };
        let line = [
            ("{nginx}", nginx),
            ("{bind}", bind),
            ("{tcp}", place.to_string()),
            ("{port}", listener.port.to_string()),
            ("{half}", backlog.div_ceil(2).to_string()),
            ("{backlog}", backlog.to_string()),
        ];
        Some(line.iter().fold(self.line.to_owned(), |line, (name, value)| line.replace(name, value)))
    }
}

#[cfg(test)]
mod tests;
