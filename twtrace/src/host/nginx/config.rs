//! What a configuration says of connections to upstreams. Pure.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::tokens::Directive;

/// The most upstreams, and the most places that pass requests on.
const MOST: usize = 4096;

/// The module that passes requests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// `proxy_pass` of http.
    Proxy,
    /// `fastcgi_pass`.
    Fastcgi,
    /// `uwsgi_pass`.
    Uwsgi,
    /// `scgi_pass`.
    Scgi,
    /// `grpc_pass`.
    Grpc,
    /// `memcached_pass`.
    Memcached,
    /// `proxy_pass` of stream: one connection for each client's.
    Stream,
}

impl Module {
    /// The directive that passes.
    #[must_use]
    pub fn directive(self) -> &'static str {
        match self {
            Self::Proxy | Self::Stream => "proxy_pass",
            Self::Fastcgi => "fastcgi_pass",
            Self::Uwsgi => "uwsgi_pass",
            Self::Scgi => "scgi_pass",
            Self::Grpc => "grpc_pass",
            Self::Memcached => "memcached_pass",
        }
    }

    fn of(directive: &str, is_stream: bool) -> Option<Self> {
        Some(match directive {
            "proxy_pass" if is_stream => Self::Stream,
            "proxy_pass" => Self::Proxy,
            "fastcgi_pass" => Self::Fastcgi,
            "uwsgi_pass" => Self::Uwsgi,
            "scgi_pass" => Self::Scgi,
            "grpc_pass" => Self::Grpc,
            "memcached_pass" => Self::Memcached,
            _ => return None,
        })
    }
}

/// An `upstream` block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Name of the upstream.
    pub name: String,
    /// The servers' addresses, as they are written.
    pub servers: Vec<String>,
    /// `keepalive`: idle connections that each worker keeps.
    pub keepalive: Option<u64>,
    /// `keepalive_requests`: nginx closes a connection after so many.
    pub requests: Option<u64>,
    /// `keepalive_time`: nginx closes a connection that is so old, after the request.
    pub time: Option<Duration>,
    /// `keepalive_timeout`: nginx closes a connection that was idle for so long.
    pub timeout: Option<Duration>,
}

/// A place that passes requests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// By which module.
    pub module: Module,
    /// To what: the name of an upstream, or `HOST:PORT`; as it is written, without scheme and path.
    pub to: String,
    /// Place of the pass: `location /api`, or `server` in stream.
    pub place: String,
    /// `proxy_http_version`.
    pub http_version: Option<String>,
    /// What `proxy_set_header Connection` sets.
    pub connection: Option<String>,
    /// `fastcgi_keep_conn on`.
    pub keep_conn: bool,
}

/// How it treats the connections that it accepts, as far as one value holds for all of http.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepting {
    /// `keepalive_timeout` of http: how long an idle connection is kept.
    pub timeout: Option<Duration>,
    /// `keepalive_requests` of http.
    pub requests: Option<u64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Upstreams of http and of stream.
    pub upstreams: Vec<Upstream>,
    /// Places that pass requests on.
    pub passes: Vec<Pass>,
    /// What is accepted.
    pub accepting: Accepting,
}

/// How sure it is that a place passes to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// The port fits, and its host is a name that was not resolved.
    Port,
    /// The address is that of the destination.
    Address,
}

/// What is inherited from block to block.
#[derive(Clone, Default)]
struct Inherited {
    http_version: Option<String>,
    connection: Option<String>,
    keep_conn: bool,
}

impl Config {
    /// What these directives, with all includes in their places, say.
    #[must_use]
    pub fn of(directives: &[Directive]) -> Self {
        let mut config = Self::default();
        for directive in directives {
            match directive.name.as_str() {
                "http" => {
                    let duration = |name| last(&directive.block, name).and_then(time);
                    config.accepting = Accepting {
                        timeout: duration("keepalive_timeout"),
                        requests: last(&directive.block, "keepalive_requests").and_then(|word| word.parse().ok()),
                    };
                    config.block(&directive.block, "http", false, &Inherited::default());
                }
                "stream" => config.block(&directive.block, "stream", true, &Inherited::default()),
                _ => {}
            }
        }
        config
    }

    /// A block and those in it. The depth is that which [`super::tokens`] reads.
    fn block(&mut self, directives: &[Directive], place: &str, is_stream: bool, outer: &Inherited) {
        let inherited = inherit(directives, outer);
        for directive in directives {
            if let Some(module) = Module::of(&directive.name, is_stream)
                && let Some(to) = directive.argument()
                && self.passes.len() < MOST
            {
                self.passes.push(Pass {
                    module,
                    to: address(to),
                    place: place.to_owned(),
                    http_version: inherited.http_version.clone(),
                    connection: inherited.connection.clone(),
                    keep_conn: inherited.keep_conn,
                });
            }
            match directive.name.as_str() {
                "upstream" if self.upstreams.len() < MOST => self.upstreams.push(upstream(directive)),
                "location" => {
                    let place = format!("location {}", directive.arguments.join(" "));
                    self.block(&directive.block, &place, is_stream, &inherited);
                }
                "server" if !directive.block.is_empty() => {
                    self.block(&directive.block, "server", is_stream, &inherited);
                }
                // Within a location.
                "if" | "limit_except" => self.block(&directive.block, place, is_stream, &inherited),
                _ => {}
            }
        }
    }

    /// The upstream that a place passes to; `None` if it is an address.
    #[must_use]
    pub fn upstream(&self, pass: &Pass) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.name == pass.to)
    }

    /// The places that pass to a destination: those of the best fit that there is. `names`: the addresses of names, as
    /// far as they are known.
    #[must_use]
    pub fn passes_to(
        &self,
        address: IpAddr,
        port: u16,
        names: &HashMap<String, Vec<IpAddr>>,
    ) -> Option<(Fit, Vec<&Pass>)> {
        let fit = |pass: &Pass| {
            let one = |server: &str, default| fits(server, default, address, port, names);
            match self.upstream(pass) {
                Some(upstream) => upstream.servers.iter().filter_map(|server| one(server, Some(80))).max(),
                None => one(&pass.to, default_port(pass.module)),
            }
        };
        let fitting: Vec<(Fit, &Pass)> = self.passes.iter().filter_map(|pass| Some((fit(pass)?, pass))).collect();
        let best = fitting.iter().map(|(fit, _)| *fit).max()?;
        Some((best, fitting.into_iter().filter(|(fit, _)| *fit == best).map(|(_, pass)| pass).collect()))
    }

    /// Whether some place passes to what a variable holds: nobody can tell where to.
    #[must_use]
    pub fn has_variables(&self) -> bool {
        self.passes.iter().any(|pass| pass.to.contains('$'))
    }
}

/// Array directives are inherited only if the block has none of its own (`ngx_conf_merge_ptr_value`).
fn inherit(directives: &[Directive], outer: &Inherited) -> Inherited {
    let own = |name| last(directives, name);
    let mut headers = directives.iter().filter(|directive| directive.name == "proxy_set_header").peekable();
    let connection = if headers.peek().is_some() {
        let is_it = |name: &str| name.eq_ignore_ascii_case("connection");
        let set = headers.rfind(|header| header.argument().is_some_and(is_it));
        set.and_then(|header| header.arguments.get(1).cloned())
    } else {
        outer.connection.clone()
    };
    Inherited {
        http_version: own("proxy_http_version").map(str::to_owned).or_else(|| outer.http_version.clone()),
        connection,
        keep_conn: own("fastcgi_keep_conn").map_or(outer.keep_conn, |word| word.eq_ignore_ascii_case("on")),
    }
}

/// The first argument of the last directive of a name.
fn last<'a>(directives: &'a [Directive], name: &str) -> Option<&'a str> {
    directives.iter().rfind(|directive| directive.name == name)?.argument()
}

fn upstream(directive: &Directive) -> Upstream {
    let servers = directive.block.iter().filter(|it| it.name == "server").filter_map(Directive::argument);
    let own = |name| last(&directive.block, name);
    let count = |name| own(name).and_then(|word| word.parse().ok());
    Upstream {
        name: directive.argument().unwrap_or_default().to_owned(),
        servers: servers.map(str::to_owned).collect(),
        keepalive: count("keepalive"),
        requests: count("keepalive_requests"),
        time: own("keepalive_time").and_then(time),
        timeout: own("keepalive_timeout").and_then(time),
    }
}

/// `http://app/path`, `grpcs://10.0.0.1:50051`, `app`: what stands between scheme and path.
fn address(to: &str) -> String {
    let (is_tls, rest) = match to.split_once("://") {
        Some((scheme, rest)) => (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("grpcs"), rest),
        None => (false, to),
    };
    if rest.starts_with("unix:") {
        return rest.to_owned();
    }
    let host = rest.split('/').next().unwrap_or_default();
    // Told apart later by its port alone.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let is_address = host.contains('.') || host.starts_with('[') || host == "localhost";
    if is_tls && !has_port && is_address { format!("{host}:443") } else { host.to_owned() }
}

fn default_port(module: Module) -> Option<u16> {
    match module {
        Module::Proxy | Module::Grpc => Some(80),
        _ => None,
    }
}

fn fits(
    server: &str,
    default: Option<u16>,
    address: IpAddr,
    port: u16,
    names: &HashMap<String, Vec<IpAddr>>,
) -> Option<Fit> {
    if server.contains('$') || server.starts_with("unix:") {
        return None;
    }
    let (host, its_port) = match server.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (server, default),
    };
    if its_port != Some(port) {
        return None;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (host.parse::<IpAddr>(), names.get(host)) {
        (Ok(it), _) => (it == address).then_some(Fit::Address),
        (Err(_), Some(addresses)) => addresses.contains(&address).then_some(Fit::Address),
        (Err(_), None) => Some(Fit::Port),
    }
}

/// `75s`, `1h 30m`, `500ms`, `60`: seconds, if there is no unit (`ngx_parse_time`).
fn time(word: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = word.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis = match rest.get(..letters)? {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "M" => 2_592_000_000,
            "y" => 31_536_000_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = rest.get(letters..)?.trim_start();
    }
    Some(total)
}

#[cfg(test)]
mod tests;
