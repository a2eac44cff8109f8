//! One configuration per proxy, all saying the same: one worker, keep-alive to the backend, logs
//! off, the same certificates, the same doors.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::cases::host;
use crate::lb;
use crate::proxies::Proxy;
use crate::routes::routes;
use crate::stand::Stand;

/// Writes the files into the folder of the stand, and completes the command.
pub(crate) fn write(proxy: Proxy, stand: &Stand<'_>, command: &mut Command) {
    match proxy {
        Proxy::Lb | Proxy::LbLog | Proxy::LbTwo | Proxy::LbVaried => {
            lb::write(proxy, stand, command)
        }
        Proxy::Floor => floor(stand, command),
        Proxy::Haproxy => haproxy(stand, command),
        Proxy::Nginx => nginx(stand, command),
        Proxy::Envoy => envoy(stand, command),
        Proxy::Fabio => fabio(stand, command),
        Proxy::Caddy => caddy(stand, command),
    }
}

fn floor(stand: &Stand<'_>, command: &mut Command) {
    let (doors, backends) = (stand.doors, stand.backends);
    let ports = [doors.http, backends.http, doors.tcp, backends.tcp];
    command
        .arg("floor")
        .args(ports.map(|port| port.to_string()));
}

fn haproxy(stand: &Stand<'_>, command: &mut Command) {
    let (doors, to, certificates) = (stand.doors, stand.backends, stand.certificates);
    let mut map = String::new();
    for i in 0..stand.hosts {
        writeln!(map, "{} web", host(i)).unwrap();
    }
    let choose = if stand.hosts == 0 {
        "default_backend web".to_owned()
    } else {
        format!(
            "use_backend %[req.hdr(host),field(1,:),lower,map_str({})]",
            stand.file("hosts.map", &map)
        )
    };
    let (ecdsa, rsa) = (
        certificates.ecdsa.both.display(),
        certificates.rsa.both.display(),
    );
    let text = format!(
        "global\n nbthread 1\n maxconn 7000\n tune.ssl.default-dh-param 2048\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 60s\n timeout server 60s\n http-reuse always\n \
         option forwardfor\n\
         frontend web\n bind 127.0.0.1:{}\n bind 127.0.0.1:{} ssl crt {ecdsa} alpn h2,http/1.1\n \
         bind 127.0.0.1:{} ssl crt {rsa} alpn h2,http/1.1\n {choose}\n\
         frontend grpc\n bind 127.0.0.1:{} proto h2\n default_backend grpc\n\
         frontend tcp\n mode tcp\n option splice-auto\n bind 127.0.0.1:{}\n default_backend tcp\n\
         backend web\n server b 127.0.0.1:{}\n\
         backend grpc\n server b 127.0.0.1:{} proto h2\n\
         backend tcp\n mode tcp\n option splice-auto\n server b 127.0.0.1:{}\n",
        doors.http, doors.ecdsa, doors.rsa, doors.grpc, doors.tcp, to.http, to.grpc, to.tcp
    );
    command.args(["-db", "-q", "-f", &stand.file("haproxy.cfg", &text)]);
}

/// What has to stand in front of an nginx configuration for its `stream` block: nothing where it is
/// built in, the module where there is one.
pub(crate) fn nginx_stream() -> Option<String> {
    let output = Command::new(Proxy::Nginx.program()?)
        .arg("-V")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if text.split_whitespace().any(|word| word == "--with-stream") {
        return Some(String::new());
    }
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    fs::exists(module)
        .ok()?
        .then(|| format!("load_module {module};\n"))
}

fn nginx(stand: &Stand<'_>, command: &mut Command) {
    let (doors, to, certificates) = (stand.doors, stand.backends, stand.certificates);
    let here = stand.folder.display();
    let (load, stream) = nginx_stream().map_or((String::new(), String::new()), |load| {
        let block = format!(
            "stream {{\n access_log off;\n server {{\n listen 127.0.0.1:{};\n tcp_nodelay on;\n \
             proxy_pass 127.0.0.1:{};\n }}\n}}\n",
            doors.tcp, to.tcp
        );
        (load, block)
    });
    let mut map = String::new();
    let mut upstream = "web";
    if stand.hosts > 0 {
        upstream = "$chosen";
        map.push_str(
            " map_hash_max_size 400000;\n map_hash_bucket_size 128;\n map $host $chosen {\n",
        );
        for i in 0..stand.hosts {
            writeln!(map, "  {} web;", host(i)).unwrap();
        }
        map.push_str(" }\n");
    }
    let tls = |pair: &crate::certificates::Pair, port: u16| {
        format!(
            " server {{\n  listen 127.0.0.1:{port} ssl http2;\n  ssl_certificate {};\n  ssl_certificate_key {};\n  \
             location / {{ proxy_pass http://{upstream}; }}\n }}\n",
            pair.cert.display(),
            pair.key.display()
        )
    };
    let text = format!(
        "{load}daemon off;\nmaster_process off;\nworker_processes 1;\nworker_rlimit_nofile 40000;\n\
         error_log {here}/error.log crit;\npid {here}/nginx.pid;\nevents {{ worker_connections 20000; }}\n{stream}\
         http {{\n access_log off;\n keepalive_requests 1000000000;\n keepalive_timeout 60s;\n \
         ssl_protocols TLSv1.2 TLSv1.3;\n client_body_buffer_size 64k;\n client_body_temp_path {here}/body;\n \
         proxy_temp_path {here}/proxy;\n fastcgi_temp_path {here}/f;\n uwsgi_temp_path {here}/u;\n \
         scgi_temp_path {here}/s;\n proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n \
         proxy_set_header Host $host;\n proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n \
         upstream web {{ server 127.0.0.1:{}; keepalive 256; keepalive_requests 1000000000; }}\n \
         upstream grpc {{ server 127.0.0.1:{}; keepalive 256; keepalive_requests 1000000000; }}\n{map} \
         server {{\n  listen 127.0.0.1:{};\n  location / {{ proxy_pass http://{upstream}; }}\n }}\n{}{} \
         server {{\n  listen 127.0.0.1:{} http2;\n  location / {{ grpc_pass grpc://grpc; }}\n }}\n}}\n",
        to.http,
        to.grpc,
        doors.http,
        tls(&certificates.ecdsa, doors.ecdsa),
        tls(&certificates.rsa, doors.rsa),
        doors.grpc
    );
    command.args(["-c", &stand.file("nginx.conf", &text), "-e", "stderr"]);
}

fn envoy(stand: &Stand<'_>, command: &mut Command) {
    let (doors, to, certificates) = (stand.doors, stand.backends, stand.certificates);
    let virtual_hosts: Vec<_> = if stand.hosts == 0 {
        vec![("all".to_owned(), "*".to_owned())]
    } else {
        (0..stand.hosts)
            .map(|i| (format!("s{i}"), host(i)))
            .collect()
    };
    let address = |port: u16| serde_json::json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let manager = |cluster: &str| {
        let hosts: Vec<_> = virtual_hosts
            .iter()
            .map(|(name, domain)| {
                let domains = [domain];
                serde_json::json!({"name": name, "domains": domains,
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]})
            })
            .collect();
        serde_json::json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": cluster, "codec_type": "AUTO", "use_remote_address": true,
            "route_config": {"virtual_hosts": hosts},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}})
    };
    let tls = |pair: &crate::certificates::Pair| {
        serde_json::json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{"certificate_chain": {"filename": pair.cert}, "private_key": {"filename": pair.key}}]}}})
    };
    let listener = |port: u16, chain: serde_json::Value| serde_json::json!({"address": address(port), "filter_chains": [chain]});
    let cluster = |name: &str, port: u16, h2: bool| {
        let mut cluster = serde_json::json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}});
        if h2 {
            cluster["typed_extension_protocol_options"] = serde_json::json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
        }
        cluster
    };
    let tcp = serde_json::json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": "tcp"}});
    let config = serde_json::json!({"static_resources": {
        "listeners": [
            listener(doors.http, serde_json::json!({"filters": [manager("web")]})),
            listener(doors.ecdsa, serde_json::json!({"filters": [manager("web")], "transport_socket": tls(&certificates.ecdsa)})),
            listener(doors.rsa, serde_json::json!({"filters": [manager("web")], "transport_socket": tls(&certificates.rsa)})),
            listener(doors.grpc, serde_json::json!({"filters": [manager("grpc")]})),
            listener(doors.tcp, serde_json::json!({"filters": [tcp]})),
        ],
        "clusters": [cluster("web", to.http, false), cluster("grpc", to.grpc, true), cluster("tcp", to.tcp, false)]}});
    let path = stand.file("envoy.json", &config.to_string());
    command.args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
        "-c",
        &path,
    ]);
}

fn fabio(stand: &Stand<'_>, command: &mut Command) {
    let (doors, certificates) = (stand.doors, stand.certificates);
    let source = |name: &str, pair: &crate::certificates::Pair| {
        format!(
            "cs={name};type=file;cert={};key={}",
            pair.cert.display(),
            pair.key.display()
        )
    };
    let listen = format!(
        "127.0.0.1:{};proto=http,127.0.0.1:{};proto=https;cs=ecdsa,127.0.0.1:{};proto=https;cs=rsa,\
         127.0.0.1:{};proto=grpc,127.0.0.1:{};proto=tcp",
        doors.http, doors.ecdsa, doors.rsa, doors.grpc, doors.tcp
    );
    let sources = format!(
        "{},{}",
        source("ecdsa", &certificates.ecdsa),
        source("rsa", &certificates.rsa)
    );
    let routes = stand.file("routes.txt", &routes(stand, "/", ""));
    // Without this page it does not start.
    let page = stand.file("no-route.html", "");
    command.env("GOMAXPROCS", "1").args([
        "-registry.backend",
        "file",
        "-registry.file.path",
        &routes,
    ]);
    command.args(["-registry.file.noroutehtmlpath", &page]);
    command.args([
        "-proxy.addr",
        &listen,
        "-proxy.cs",
        &sources,
        "-log.level",
        "ERROR",
        "-metrics.target",
        "",
    ]);
    command.args([
        "-ui.addr",
        &format!("127.0.0.1:{}", doors.admin),
        "-proxy.maxconn",
        "10000",
    ]);
}

fn caddy(stand: &Stand<'_>, command: &mut Command) {
    let (doors, to, certificates) = (stand.doors, stand.backends, stand.certificates);
    let site = |address: &str, extra: &str, backend: String| {
        format!("{address} {{\n bind 127.0.0.1\n{extra} reverse_proxy {backend}\n}}\n")
    };
    let tls = |pair: &crate::certificates::Pair| {
        format!(" tls {} {}\n", pair.cert.display(), pair.key.display())
    };
    let text = format!(
        "{{\n admin off\n auto_https off\n servers {{\n  protocols h1 h2 h2c\n }}\n log {{\n  output discard\n }}\n}}\n{}{}{}{}",
        site(
            &format!("http://:{}", doors.http),
            "",
            format!("http://127.0.0.1:{}", to.http)
        ),
        site(
            &format!("https://:{}", doors.ecdsa),
            &tls(&certificates.ecdsa),
            format!("http://127.0.0.1:{}", to.http)
        ),
        site(
            &format!("https://:{}", doors.rsa),
            &tls(&certificates.rsa),
            format!("http://127.0.0.1:{}", to.http)
        ),
        site(
            &format!("http://:{}", doors.grpc),
            "",
            format!("h2c://127.0.0.1:{}", to.grpc)
        ),
    );
    let path = stand.file("Caddyfile", &text);
    command
        .env("GOMAXPROCS", "1")
        .args(["run", "--adapter", "caddyfile", "--config", &path]);
}
