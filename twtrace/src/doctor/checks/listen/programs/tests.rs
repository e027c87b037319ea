use std::collections::HashSet;

use super::*;
use crate::doctor::checks::fixture::listening;

#[test]
fn programs_are_recognised() {
    for (comm, command, expected) in [
        ("nginx", "", Some("nginx")),
        ("openresty", "", Some("nginx")),
        ("haproxy", "/usr/sbin/haproxy -Ws", Some("HAProxy")),
        ("haproxy_exporte", "", None),
        ("envoy", "", Some("Envoy")),
        ("httpd", "", Some("Apache")),
        ("node-MainThread", "node server.js", Some("Node.js")),
        ("node_exporter", "", Some("Go")),
        ("valkey-server", "", Some("Redis")),
        ("php-fpm8.2", "", Some("PHP-FPM")),
        ("postgres", "", Some("PostgreSQL")),
        ("mariadbd", "", Some("MySQL")),
        ("caddy", "caddy run", Some("Go")),
        ("java", "java -cp x org.apache.catalina.startup.Bootstrap start", Some("Tomcat")),
        ("java", "java -jar netty-app.jar", Some("Netty")),
        ("java", "java -cp x kafka.Kafka server.properties", Some("Kafka")),
        ("java", "java -jar app.jar", Some("Java")),
        ("java", "", Some("Java")),
        ("gunicorn", "", Some("Gunicorn")),
        ("python3.11", "python3 -m gunicorn app:app", Some("Gunicorn")),
        ("python3", "python3 -m uvicorn app:app", Some("Uvicorn")),
        ("python3", "python3 -m http.server", Some("Python")),
        ("ruby", "puma 6.4 (tcp://0.0.0.0:3000)", Some("Puma")),
        ("ruby", "ruby app.rb", None),
        ("beam.smp", "beam.smp -s rabbit boot", Some("RabbitMQ")),
        ("app", "nginx gunicorn haproxy", None),
        ("", "", None),
    ] {
        assert_eq!(Program::named(comm, command).map(|program| program.title), expected, "{comm}: {command}");
    }
}

#[test]
fn lines_are_for_the_very_place() {
    let line = |comm, listener: &Listener| Program::named(comm, "").unwrap().line(listener, 4096);
    let plain = listening(8080, 0, 511);
    let local = Listener { address: IpAddr::from([127, 0, 0, 1]), ..plain };
    let v6 = Listener { address: IpAddr::from([0_u16; 8]), ..plain };
    for (comm, listener, expected) in [
        ("nginx", &plain, "listen 8080 backlog=4096;"),
        ("nginx", &local, "listen 127.0.0.1:8080 backlog=4096;"),
        ("nginx", &v6, "listen [::]:8080 backlog=4096;"),
        ("haproxy", &plain, "bind *:8080 backlog 4096"),
        ("haproxy", &local, "bind 127.0.0.1:8080 backlog 4096"),
        ("envoy", &plain, "tcp_backlog_size: 4096"),
        ("node", &plain, "server.listen({ port: 8080, backlog: 4096 })"),
        ("postgres", &plain, "max_connections = 2048"),
        ("puma", &plain, "bind \"tcp://0.0.0.0:8080?backlog=4096\""),
        ("beam.smp", &plain, "gen_tcp:listen(8080, [{backlog, 4096}])"),
    ] {
        assert_eq!(line(comm, listener).as_deref(), Some(expected), "{comm}");
    }
    assert_eq!((line("caddy", &plain), line("sshd", &plain)), (None, None));
}

#[test]
fn every_row_is_whole() {
    let mut seen = HashSet::new();
    for program in PROGRAMS {
        assert!(!program.comms.is_empty() && !program.source.is_empty(), "{program:?}");
        assert!(seen.insert((program.comms, program.words)), "{program:?} is given twice");
        let line = program.line(&listening(1, 0, 1), 2).unwrap_or_default();
        // Erlang's own braces aside, every name is replaced.
        assert!(
            !["{nginx}", "{bind}", "{tcp}", "{port}", "{half}", "{backlog}"].iter().any(|name| line.contains(name)),
            "{line}"
        );
        // A name that is longer than a comm is never seen.
        assert!(program.comms.iter().all(|comm| comm.len() <= 15), "{program:?}");
    }
    assert!(Program::named("nginx", "").unwrap().takes(511, 4096));
    assert!(!Program::named("nginx", "").unwrap().takes(4096, 4096));
    assert!(Program::named("caddy", "").unwrap().takes(4096, 4096));
    assert!(!Program::named("haproxy", "").unwrap().takes(4096, 4096));
}
