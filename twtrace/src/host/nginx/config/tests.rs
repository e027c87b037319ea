use proptest::prelude::*;

use super::{super::tokens, *};

fn config(text: &str) -> Config {
    Config::of(&tokens::parse(text))
}

/// The places that pass to 10.0.0.2 at a port, and how well they fit.
fn to(text: &str, port: u16) -> Option<(Fit, Vec<Module>)> {
    let names = HashMap::from([("backend".to_owned(), vec![IpAddr::from([10, 0, 0, 2])])]);
    let config = config(text);
    let (fit, passes) = config.passes_to([10, 0, 0, 2].into(), port, &names)?;
    Some((fit, passes.into_iter().map(|pass| pass.module).collect()))
}

#[test]
fn upstreams_are_read() {
    let config = config(
        "http { upstream app { server 10.0.0.2:8080 max_fails=3; server unix:/run/app; keepalive 32 local; \
         keepalive_requests 100; keepalive_time 1h30m; keepalive_timeout 500ms; } \
         keepalive_timeout 75s 70s; keepalive_requests 5; }",
    );
    let expected = Upstream {
        name: "app".to_owned(),
        servers: vec!["10.0.0.2:8080".to_owned(), "unix:/run/app".to_owned()],
        keepalive: Some(32),
        requests: Some(100),
        time: Some(Duration::from_secs(5400)),
        timeout: Some(Duration::from_millis(500)),
    };
    assert_eq!(config.upstreams, [expected]);
    assert_eq!(config.accepting, Accepting { timeout: Some(Duration::from_secs(75)), requests: Some(5) });
}

#[test]
fn every_module_is_found_by_its_address() {
    for (pass, expected) in [
        ("proxy_pass http://10.0.0.2:80/path", Module::Proxy),
        ("proxy_pass http://10.0.0.2", Module::Proxy),
        ("proxy_pass http://app", Module::Proxy),
        ("proxy_pass http://backend:80", Module::Proxy),
        ("fastcgi_pass 10.0.0.2:80", Module::Fastcgi),
        ("fastcgi_pass app", Module::Fastcgi),
        ("uwsgi_pass uwsgi://10.0.0.2:80", Module::Uwsgi),
        ("scgi_pass app", Module::Scgi),
        ("grpc_pass grpc://10.0.0.2:80", Module::Grpc),
        ("memcached_pass 10.0.0.2:80", Module::Memcached),
    ] {
        let text = format!("http {{ upstream app {{ server 10.0.0.2; }} server {{ location / {{ {pass}; }} }} }}");
        assert_eq!(to(&text, 80), Some((Fit::Address, vec![expected])), "{pass}");
        assert_eq!(to(&text, 81), None, "{pass}");
    }
    assert_eq!(to("http { server { proxy_pass https://10.0.0.2; } }", 443), Some((Fit::Address, vec![Module::Proxy])));
    let stream = "stream { server { listen 1; proxy_pass 10.0.0.2:5432; } }";
    assert_eq!(to(stream, 5432), Some((Fit::Address, vec![Module::Stream])));
}

#[test]
fn a_name_that_is_not_known_fits_by_its_port_if_nothing_fits_better() {
    let elsewhere = "http { server { location /a { proxy_pass http://elsewhere:8080; } ";
    assert_eq!(to(&format!("{elsewhere}}} }}"), 8080), Some((Fit::Port, vec![Module::Proxy])));
    let both = format!("{elsewhere} location /b {{ fastcgi_pass 10.0.0.2:8080; }} }} }}");
    assert_eq!(to(&both, 8080), Some((Fit::Address, vec![Module::Fastcgi])));
    // Nobody knows where these lead.
    for pass in ["proxy_pass http://$host:8080", "proxy_pass http://unix:/run/app:8080", "fastcgi_pass unix:/run/php"] {
        let text = format!("http {{ server {{ location / {{ {pass}; }} }} }}");
        assert_eq!(to(&text, 8080), None, "{pass}");
        assert_eq!(config(&text).has_variables(), pass.contains('$'));
    }
    assert_eq!(to("http { server { proxy_pass http://[::1]:8080; } }", 8080), None);
}

#[test]
fn blocks_inherit_as_in_nginx() {
    let config = config(
        "http { proxy_http_version 1.1; proxy_set_header Connection \"\"; fastcgi_keep_conn on; server { \
         location /a { proxy_pass http://x:1; } \
         location /b { proxy_set_header Host $host; proxy_pass http://x:1; } \
         location /c { proxy_http_version 1.0; if ($x) { proxy_pass http://x:1; } } \
         location /d { fastcgi_keep_conn off; fastcgi_pass x:1; location ~ e { fastcgi_pass x:1; } } } }",
    );
    let told: Vec<_> = config
        .passes
        .iter()
        .map(|it| (it.place.as_str(), it.http_version.as_deref(), it.connection.as_deref(), it.keep_conn))
        .collect();
    assert_eq!(
        told,
        [
            ("location /a", Some("1.1"), Some(""), true),
            // A header of its own, and those of the outer blocks are gone.
            ("location /b", Some("1.1"), None, true),
            ("location /c", Some("1.0"), Some(""), true),
            ("location /d", Some("1.1"), Some(""), false),
            ("location ~ e", Some("1.1"), Some(""), false),
        ]
    );
}

#[test]
fn times_have_units() {
    for (word, millis) in [("60", 60_000), ("1m", 60_000), ("1h30m", 5_400_000), ("5ms", 5), ("0", 0)] {
        assert_eq!(time(word), Some(Duration::from_millis(millis)), "{word}");
    }
    for word in ["x", "1x", "99999999999999999999", "99999999999999999y", "-1", "é"] {
        assert_eq!(time(word), None, "{word}");
    }
}

proptest! {
    #[test]
    fn any_configuration_is_understood(
        text in "((http|stream|server|location|upstream|if) ?[a-z/~]{0,3} ?\\{|\\}|(proxy_pass|server|keepalive|keepalive_time|\
                 proxy_set_header|fastcgi_pass) [a-z$:/\\[\\]0-9.\"]{0,12};|.){0,30}",
        port: u16,
    ) {
        let _ = to(&text, port);
    }
}
