//! What to do, in the words of whoever opens the connections, and of whoever accepts them.

use std::net::SocketAddr;

use super::nginx;
use crate::{doctor::checks::is_program, host::nginx::Nginx};

/// What the steps depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    /// Where the connections go.
    pub service: SocketAddr,
    /// Connections that would do, with room.
    pub pool: u64,
    /// Short connections per second; 0 if that is not known.
    pub per_s: f64,
    /// The accepting end closes first.
    pub peer_first: bool,
    /// The program that opens, by name.
    pub client: Option<&'a str>,
    /// What it is configured with, if it is an nginx whose configuration could be read.
    pub nginx: Option<&'a Nginx>,
    /// The program that accepts, by name.
    pub server: Option<&'a str>,
    /// What that is configured with, likewise.
    pub serving: Option<&'a Nginx>,
}

/// Programs that accept: name of the process, how long they keep an idle connection by default, and the setting.
const KEEPERS: [(&str, &str, &str); 9] = [
    ("node", "5 s", "server.keepAliveTimeout"),
    ("gunicorn", "2 s", "--keep-alive"),
    ("uvicorn", "5 s", "--timeout-keep-alive"),
    ("apache2", "5 s", "KeepAliveTimeout and MaxKeepAliveRequests"),
    ("httpd", "5 s", "KeepAliveTimeout and MaxKeepAliveRequests"),
    ("haproxy", "that of 'timeout client'", "timeout http-keep-alive"),
    ("envoy", "1 h", "common_http_protocol_options.idle_timeout of the listener"),
    ("java", "20 s in Tomcat", "keepAliveTimeout and maxKeepAliveRequests of the connector"),
    ("php-fpm", "no limit", "pm.max_requests"),
];

/// The steps, the safest first.
pub(super) fn steps(case: &Case<'_>) -> Vec<String> {
    let Case { service, pool, .. } = *case;
    let is = |program| case.client.is_some_and(|comm| is_program(comm, program));
    if is("nginx") {
        // Whether the accepting end is to blame depends on what nginx asks it for: its steps say so.
        return nginx::steps(case);
    }
    let mut steps = if is("haproxy") {
        vec![
            "HAProxy, in the backend: http-reuse safe".to_owned(),
            "HAProxy: remove 'option httpclose' and 'option http-server-close'".to_owned(),
        ]
    } else if is("envoy") {
        vec![
            "Envoy, in the cluster: remove max_requests_per_connection: 1 (common_http_protocol_options)".to_owned(),
            "Envoy, in the cluster: common_http_protocol_options.idle_timeout of a minute or more".to_owned(),
        ]
    } else if let Some(comm) = case.client {
        vec![format!("let {comm} keep its connections to {service}: one client with a pool of {pool} for all requests")]
    } else {
        vec![format!("let the clients of {service} keep their connections and use them again")]
    };
    if case.peer_first {
        steps.push(accepting(case));
    }
    steps
}

/// What the accepting end, which closes first, has to be asked.
pub(super) fn accepting(case: &Case<'_>) -> String {
    let Some(comm) = case.server else {
        return format!(
            "check the keepalive timeout and request limit of the server at {}: it closes connections first",
            case.service
        );
    };
    if is_program(comm, "nginx") {
        let now = case.serving.map_or_else(String::new, |nginx| nginx::accepting_now(&nginx.config.accepting));
        return format!("nginx at the accepting end: keepalive_timeout 75s; keepalive_requests 1000; (or more{now})");
    }
    match KEEPERS.iter().find(|(program, ..)| is_program(comm, program)) {
        Some((_, idle, setting)) => {
            format!("raise the keepalive limits of {comm}, which closes first: {setting} (default: {idle})")
        }
        None => format!("check the keepalive timeout and request limit of {comm}: it closes connections first"),
    }
}
