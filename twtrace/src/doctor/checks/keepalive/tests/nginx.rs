use super::*;
use crate::host::nginx::{Nginx, config::Config, tokens};

/// What to do about an nginx of this version, with two workers and these directives in http, of which it is the worker that
/// opens connections to 10.0.0.2:443: so many a second, closed first by itself, or by its peer.
fn asked(version: Option<[u32; 3]>, http: &str, per_s: u64, peer_first: bool) -> Finding {
    let nginx = Nginx {
        master: 41,
        workers: [42, 43].into(),
        file: "/etc/nginx/nginx.conf".to_owned(),
        version,
        config: Config::of(&tokens::parse(&format!("http {{ {http} }}"))),
        ..Nginx::default()
    };
    let fixture = if peer_first { opened(per_s, &[]) } else { opening(per_s) };
    let mut facts = fixture.process(42, "nginx", 9, 1024).machine(|machine| machine.nginxes.push(nginx));
    let remote = (destination(443).raddr, 443);
    facts.namespaces[0].openers.insert(remote, 42);
    facts.namespaces[0].looks = 9;
    facts.namespaces[0].came.insert(remote, Came { sockets: 99, open: 2.0 });
    let found = check(&facts, &facts.namespaces[0]);
    the(&found, if peer_first { PEER_ID } else { SHORT_ID }).clone()
}

fn steps(version: [u32; 3], http: &str) -> Vec<String> {
    let mut steps = asked(Some(version), http, 50, false).to_do;
    let idle = steps.pop().unwrap();
    assert!(idle.starts_with("keep the idle timeout of the server at 10.0.0.2:443 above the "), "{idle}");
    steps
}

const OLD: [u32; 3] = [1, 22, 1];
const NEW: [u32; 3] = [1, 29, 7];

/// An upstream with these directives, and a location with those.
fn app(upstream: &str, location: &str) -> String {
    format!("upstream app {{ server 10.0.0.2:443; {upstream} }} server {{ location / {{ {location} }} }}")
}

#[test]
fn each_module_has_its_own_lines() {
    let keepalive = "nginx, in upstream app: keepalive 16;";
    let version = "nginx, in location /: proxy_http_version 1.1;";
    let header = "nginx, in location /: proxy_set_header Connection \"\";";
    let keep_conn = "nginx, in location /: fastcgi_keep_conn on;";
    for (location, expected) in [
        ("proxy_pass http://app;", &[keepalive, version, header][..]),
        ("fastcgi_pass app;", &[keepalive, keep_conn]),
        ("grpc_pass grpc://app;", &[keepalive]),
        ("memcached_pass app;", &[keepalive]),
    ] {
        assert_eq!(steps(OLD, &app("", location)), expected, "{location}");
    }
    for module in ["uwsgi", "scgi"] {
        let found = asked(Some(NEW), &app("keepalive 9;", &format!("{module}_pass app;")), 50, false).to_do;
        assert!(found[0].starts_with(&format!("nginx, in location /: {module}_pass unix:/run/app.sock;")), "{found:?}");
        assert!(found[0].ends_with(&format!("no version of nginx keeps {module} connections)")), "{found:?}");
        assert!(!found.iter().any(|step| step.contains("proxy_http_version")), "{found:?}");
    }
}

#[test]
fn only_what_is_missing_is_told() {
    let http = "proxy_http_version 1.1;";
    let header = "nginx, in location /: proxy_set_header Connection \"\";";
    assert_eq!(steps(OLD, &app("keepalive 16;", &format!("{http} proxy_pass http://app;"))), [header]);
    let keep_conn = ["nginx, in location /: fastcgi_keep_conn on;"];
    assert_eq!(steps(OLD, &app("keepalive 16;", "fastcgi_pass app;")), keep_conn);
    assert_eq!(steps(OLD, &app("keepalive 0;", "grpc_pass app;")), ["nginx, in upstream app: keepalive 16;"]);
    // Without an upstream block there is none to keep, in any version.
    for version in [OLD, NEW] {
        let direct = steps(version, "server { location /x { grpc_pass grpc://10.0.0.2:443; } }");
        assert_eq!(
            direct,
            [
                "nginx: upstream NAME { server 10.0.0.2:443; keepalive 16; } and grpc_pass to NAME instead of 10.0.0.2:443"
            ]
        );
    }
    let upgrade = "keepalive 16;";
    let location = "proxy_http_version 1.1; proxy_set_header Connection $connection_upgrade; proxy_pass http://app;";
    let map = steps(OLD, &app(upgrade, location));
    assert!(map[0].starts_with("nginx, in the map that sets $connection_upgrade: an empty value"), "{map:?}");
    let found = asked(Some(OLD), &app("keepalive 16;", "proxy_pass http://app;"), 50, false);
    assert_eq!(shown(&found, "in location /").as_deref(), Some("proxy_pass app; keepalive 16"));
    assert_eq!(shown(&found, "nginx version").as_deref(), Some("1.22.1"));
}

#[test]
fn new_versions_keep_by_themselves() {
    // What is left: 32 in each worker are enough, and a thousand requests of 50/s are 50,000/s.
    let found = steps(NEW, &app("", "proxy_pass http://app;"));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("nginx, in upstream app: keepalive_requests 100000; (now 1000:"), "{found:?}");
    let told = steps(NEW, &app("keepalive 0;", "proxy_http_version 1.0; proxy_pass http://app;"));
    assert_eq!(told, ["nginx, in upstream app: keepalive 16;", "nginx, in location /: proxy_http_version 1.1;"]);
    // Of an unknown version nothing is taken for granted.
    let unknown = asked(None, &app("", "proxy_pass http://app;"), 50, false);
    assert_eq!((unknown.to_do.len(), shown(&unknown, "nginx version").as_deref()), (4, Some("?")));
}

#[test]
fn one_that_keeps_and_closes_by_itself_is_told_its_limits() {
    let location = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass http://app;";
    let told = |upstream: &str| steps(OLD, &app(upstream, location)).join("\n");
    assert_eq!(
        told("keepalive 2; keepalive_requests 1000000;"),
        "nginx, in upstream app: keepalive 16; (now 2 in each of 2 workers: nginx closes an idle connection beyond these)"
    );
    assert_eq!(
        told("keepalive 64; keepalive_requests 10;"),
        "nginx, in upstream app: keepalive_requests 1000; (now 10: nginx closes a connection after so many requests)"
    );
    assert_eq!(
        told("keepalive 64; keepalive_requests 1000000; keepalive_time 5s; keepalive_timeout 100ms;"),
        "nginx, in upstream app: keepalive_time 1h; (now 5s: nginx closes a connection of that age)\n\
         nginx, in upstream app: keepalive_timeout 60s; (now 100ms: nginx closes a connection that is idle so long)"
    );
    for step in [told("keepalive 2;"), told("keepalive 64; keepalive_requests 10;")] {
        assert!(!step.contains("proxy_http_version") && !step.contains("proxy_set_header"), "{step}");
    }
}

#[test]
fn one_whose_backend_closes_first_is_told_of_timeouts() {
    let location = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass http://app;";
    let found = asked(Some(OLD), &app("keepalive 64; keepalive_timeout 90s;", location), 400, true);
    assert_eq!(found.severity, Severity::Warning);
    assert!(
        found.sentence.starts_with("nginx (42) opens 400 short connections per second to 10.0.0.2:443, which"),
        "{found:?}"
    );
    assert_eq!(
        found.to_do[0],
        "check the keepalive timeout and request limit of the server at 10.0.0.2:443: it closes connections first"
    );
    assert!(found.to_do[1].contains("above the 90s that nginx keeps an idle connection"), "{found:?}");
    // One that asks for the close has to stop asking.
    let asking = asked(Some(OLD), &app("", "proxy_pass http://app;"), 400, true);
    assert_eq!(asking.to_do[0], "nginx, in upstream app: keepalive 16;");
    assert!(!asking.to_do.iter().any(|step| step.starts_with("check ")), "{asking:?}");
}

#[test]
fn where_nobody_can_tell_the_lines_of_all_modules_are_told() {
    let found = asked(Some(OLD), "server { location / { proxy_pass http://$backend; } }", 50, false).to_do;
    assert_eq!(found.len(), 5);
    assert!(found[4].starts_with("nginx passes to what a variable holds"), "{found:?}");
    // A name that is not resolved has the port.
    let named = steps(OLD, "server { location / { grpc_pass grpc://elsewhere:443; } }");
    assert!(named[0].contains("grpc_pass to NAME instead of elsewhere:443"), "{named:?}");
}

#[test]
fn who_is_configured_to_pass_there_opens() {
    let http = app("", "fastcgi_pass app;");
    let with = |netns| {
        let config = Config::of(&tokens::parse(&format!("http {{ {http} }}")));
        let nginx = Nginx { master: 41, netns: Some(netns), config, ..Nginx::default() };
        let facts = opening(50).process(41, "nginx", 9, 1024).machine(|machine| machine.nginxes.push(nginx));
        check(&facts, &facts.namespaces[0]).remove(0)
    };
    let found = with(crate::doctor::checks::fixture::INUM);
    assert!(found.sentence.starts_with("nginx (41) opens 50 "), "{found:?}");
    assert!(found.to_do[1].ends_with("fastcgi_keep_conn on;"), "{found:?}");
    // One in another namespace is none that could.
    assert!(with(1).sentence.starts_with("10.0.0.1 opens 50 "));
}
