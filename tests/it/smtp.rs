//! The way over the wire: what a hostile, broken or slow relay, or a hostile message, can and cannot do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aftercall::config::tenant::{Relay as RelayConfig, Tls};
use aftercall::deliver::connect::connect;
use aftercall::deliver::smtp::{Envelope, Sent};
use aftercall::deliver::tls::connector;
use aftercall::outbox::{Outcome, Report};
use aftercall::sink::{Script, Sink};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::support::{Ended, PLAIN, Relay, Site, Talk, TenantFile, call, server};

/// Bounds a wait that must end by itself, far below the default of a minute.
const SOON: Duration = Duration::from_secs(20);

fn config(sink: &Sink) -> RelayConfig {
    config_of(sink.address().port())
}

fn config_of(port: u16) -> RelayConfig {
    RelayConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: Tls::None,
        ca_file: None,
        login: None,
        connections: 1,
        hello: "client.example.com".to_owned(),
        reply_timeout: SignedDuration::from_secs(10),
        message_timeout: SignedDuration::from_secs(10),
    }
}

/// Sends messages over one connection as long as it is given back.
async fn exchange(sink: &Sink, wires: &[&[u8]]) -> Vec<Report> {
    let mut kept = None;
    let mut reports = Vec::new();
    for wire in wires {
        let connection = match kept.take() {
            Some(connection) => connection,
            None => Box::new(connect(&config(sink), &connector(None).unwrap(), None).await.unwrap()),
        };
        let envelope = Envelope { id: "c1-x", from: "from@example.com", recipient: "to@example.com", wire };
        match connection.send(envelope).await {
            Sent::Ended(report, connection) => {
                kept = connection;
                reports.push(report);
            }
            Sent::Stale(report) => panic!("the connection is gone: {report:?}"),
        }
    }
    reports
}

#[tokio::test]
async fn a_message_that_could_be_read_as_two_never_reaches_the_relay() {
    const SECOND: &str = "MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nx\r\n";
    // Every end of data that some server was found to take beside CRLF . CRLF.
    let ends =
        ["\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r", "\n.\r", "\r\r\n.\r\r\n", "\0\r\n"];
    let mut bad: Vec<Vec<u8>> =
        ends.iter().map(|end| format!("A: b\r\n\r\nfirst{end}{SECOND}").into_bytes()).collect();
    for line in ["bare\nLF", "bare\rCR", "at the end\r", "at the end\n"] {
        bad.push(format!("A: b\r\n\r\n{line}\r\n").into_bytes());
    }
    bad.push(b"A: b\r\n\r\nno end of line".to_vec());
    bad.push(b"A: b\r\n\r\nline feed at the end\n".to_vec());
    bad.push([b"A: b\r\n\r\n", &b"x".repeat(999)[..], b"\r\n"].concat());
    bad.push(b"A: \xc3\xa4\r\n\r\n\r\n".to_vec());
    bad.push(b"A: \xe4\r\n\r\n\r\n".to_vec());
    let good: &[u8] = b"A: b\r\n\r\ngood\r\n";
    let sink = Sink::start(Script::default()).await.unwrap();
    let wires: Vec<&[u8]> = bad.iter().map(Vec::as_slice).chain([good]).collect();
    let reports = exchange(&sink, &wires).await;
    let (last, refused) = reports.split_last().unwrap();
    for (report, wire) in refused.iter().zip(&bad) {
        let shown = String::from_utf8_lossy(wire);
        assert_eq!((report.outcome, &*report.stage), (Outcome::Rejected, "local"), "{shown:?}");
    }
    assert_eq!(last.outcome, Outcome::Accepted, "the connection is as good as before");
    let received = sink.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].message, good);
    assert_eq!(sink.connections(), 1);
}

#[tokio::test]
async fn lines_that_start_with_dots_arrive_as_they_were() {
    let wires: [&[u8]; 6] = [
        b".first: b\r\n\r\n.\r\n..\r\n...\r\n.a\r\na.\r\n",
        b"A: b\r\n\r\nthe end is a dot\r\n.\r\n",
        b".\r\n",
        b"A: b\r\n\r\n.\r\n.\r\n.\r\n\r\n.\r\n",
        b"A: b\r\n\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\n.\r\nQUIT\r\n",
        b"A: b\r\n\r\nempty lines at the end\r\n\r\n\r\n",
    ];
    let sink = Sink::start(Script::default()).await.unwrap();
    for report in exchange(&sink, &wires).await {
        assert_eq!(report.outcome, Outcome::Accepted, "{report:?}");
    }
    let received: Vec<Vec<u8>> = sink.received().into_iter().map(|mail| mail.message).collect();
    assert_eq!(received, wires);
    assert!(sink.received().iter().all(|mail| mail.recipient == "to@example.com"));
}

/// Sends one session with `aftercall send`.
fn send_one(port: u16, tenant: &TenantFile<'_>) -> (Site, Ended) {
    let site = Site::new(port, tenant);
    let file = site.session("call-1.json", &call(1, "7", 0));
    let began = Instant::now();
    let ended = site.run(&["send", &file]);
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
    (site, ended)
}

/// Sends one session and expects it to wait for another time, for a reason with these words.
#[track_caller]
fn expect_deferred(port: u16, tenant: &TenantFile<'_>, stage: &str, words: &str) -> (Site, Ended) {
    let (site, ended) = send_one(port, tenant);
    let ended = ended.with_code(75);
    let row = site.deliveries().remove(0);
    assert_eq!(row.state.as_str(), "deferred", "{}", row.reason);
    assert!(row.reason.contains(words), "{words} is not in {}", row.reason);
    assert_eq!(site.attempts("call-1")[0].stage.as_deref(), Some(stage), "{}", row.reason);
    (site, ended)
}

#[test]
fn blank_and_odd_lines_in_the_hello_reply_hurt_nobody() {
    let table: &[&[&str]] = &[
        &["", " ", "   ", "\t"],
        &["size 100000", "pipelining", "8bitmime", "smtputf8"],
        &["AUTH", "AUTH ", "AUTH=LOGIN PLAIN", "AUTH  PLAIN   LOGIN"],
        &["X", "=", "SIZE abc", "SIZE -1", "SIZE 99999999999999999999999"],
        &["\u{7f}\u{1}", "ÄÖÜ", "\u{202e}"],
    ];
    for keywords in table {
        let keywords = keywords.iter().map(|keyword| (*keyword).to_owned()).collect();
        let relay = Relay::with(Script { keywords, ..Script::default() });
        let (_, ended) = send_one(relay.port(), &TenantFile::default());
        ended.with_code(0);
        relay.only();
    }
}

#[test]
fn keywords_are_read_in_any_case() {
    let authenticated = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&authenticated);
    let port = server(move |mut talk, _| {
        talk.say("220 relay.example.com\r\n");
        while let Some(line) = talk.hear() {
            match line.split_whitespace().next().unwrap_or_default() {
                "EHLO" => talk.say("250-relay.example.com\r\n250-Size 100000\r\n250 auth plain\r\n"),
                "AUTH" => {
                    seen.store(true, Ordering::SeqCst);
                    talk.say("235 2.7.0 ok\r\n")
                }
                "DATA" => {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    talk.say("250 2.0.0 ok\r\n")
                }
                _ => talk.say("250 2.0.0 ok\r\n"),
            };
        }
    });
    let site = Site::new(port, &TenantFile::default());
    site.write("config/password", b"secret\n");
    let relay = format!("{PLAIN}\nuser = \"u\"\npassword = {{ file = \"password\" }}");
    site.tenant("acme", &TenantFile { relay: &relay, ..TenantFile::default() });
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    assert!(authenticated.load(Ordering::SeqCst));
}

#[test]
fn a_relay_that_offers_only_login_asks_for_user_and_password() {
    // What the relay answers to each line of the dialogue, and what comes of it.
    let table: [(&[&str], &[&str], i32); 3] = [
        (&["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n", "235 ok\r\n"], &["AUTH LOGIN", "u", PASSWORD], 0),
        (&["334 VXNlcm5hbWU6\r\n", "535 5.7.8 who?\r\n"], &["AUTH LOGIN", "u"], 75),
        (&["454 4.7.0 later\r\n"], &["AUTH LOGIN"], 75),
    ];
    for (replies, said, code) in table {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let port = server(move |mut talk, _| {
            talk.say("220 ready\r\n");
            talk.hear();
            talk.say("250-relay.example.com\r\n250 AUTH CRAM-MD5 LOGIN\r\n");
            for reply in replies {
                hearing.lock().unwrap().push(talk.hear().unwrap());
                talk.say(reply);
            }
            while let Some(line) = talk.hear() {
                let is_data = line == "DATA" && talk.say("354 go on\r\n") && talk.hear_message().is_some();
                talk.say(if is_data { "250 2.0.0 queued\r\n" } else { "250 ok\r\n" });
            }
        });
        let lines = format!("{PLAIN}\nuser = \"u\"\npassword = {{ file = \"password\" }}");
        let site = secured_site(port, &authority("127.0.0.1"), &lines);
        let file = site.session("call-1.json", &call(1, "7", 0));
        site.run(&["send", &file]).with_code(code);
        let coded = said.iter().enumerate().map(|(at, line)| match at {
            0 => (*line).to_owned(),
            _ => STANDARD.encode(line),
        });
        assert_eq!(*heard.lock().unwrap(), coded.collect::<Vec<_>>());
    }
}

#[test]
fn a_reply_without_an_end_is_cut_off() {
    type Relay = fn(&mut Talk);
    let table: [(&str, Relay); 4] = [
        ("hello", |talk| {
            talk.say("220 ready\r\n");
            talk.hear();
            while talk.say("250-X-KEYWORD\r\n") {}
        }),
        ("hello", |talk| {
            talk.say("220 ready\r\n");
            talk.hear();
            talk.say("250-");
            while talk.say(&"x".repeat(1000)) {}
        }),
        ("greeting", |talk| while talk.say("220-ready\r\n") {}),
        ("greeting", |talk| while talk.say(&"x".repeat(1000)) {}),
    ];
    for (stage, talk) in table {
        let port = server(move |mut connection, _| talk(&mut connection));
        expect_deferred(port, &TenantFile::default(), stage, "longer than");
    }
}

#[test]
fn a_reply_without_an_end_is_cut_off_after_the_hello_too() {
    for step in ["MAIL", "RCPT", "DATA"] {
        let port = server(move |mut talk, _| {
            talk.say("220 ready\r\n");
            while let Some(line) = talk.hear() {
                if line.starts_with(step) {
                    while talk.say("250-and more\r\n") {}
                }
                talk.say("250 ok\r\n");
            }
        });
        let site = Site::new(port, &TenantFile::default());
        let relay = format!("{PLAIN}\nreply_timeout = \"2s\"");
        site.tenant("acme", &TenantFile { relay: &relay, ..TenantFile::default() });
        let file = site.session("call-1.json", &call(1, "7", 0));
        let began = Instant::now();
        site.run(&["send", &file]).with_code(75);
        assert!(began.elapsed() < SOON, "{step}: {:?}", began.elapsed());
    }
}

#[test]
fn a_line_break_in_the_senders_name_is_refused_by_the_configuration() {
    for name in
        [r"Acme\r\nBcc: evil@example.com", r"Acme\nX: y", r"Acme\rX: y", r"Acme\u0000", r"Acme\u0085X"]
    {
        let relay = Relay::start();
        let sender = format!("address = \"bridge@acme.example.com\"\nname = \"{name}\"");
        let site = Site::new(relay.port(), &TenantFile { sender: &sender, ..TenantFile::default() });
        let line = std::fs::read_to_string(site.path("config/tenants/acme.toml"))
            .unwrap()
            .lines()
            .position(|line| line.starts_with("name = \"Acme"))
            .unwrap();
        let place = format!("tenants/acme.toml:{}: sender.name: ", line + 1);
        let told = site.run(&["check"]).with_code(1).out;
        assert!(told.contains(&place), "{name}: {told}");
        let file = site.session("call-1.json", &call(1, "7", 0));
        let refused = site.run(&["send", &file]).with_code(2);
        assert!(refused.err.contains(&place), "{name}: {}", refused.err);
        assert_eq!(relay.sink.connections(), 0);
    }
}

/// A certificate authority and a server that it vouches for.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Authority { pem, acceptor: acceptor(&leaf, &key) }
}

/// A server that shows this certificate.
pub(crate) fn acceptor(certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], secret)
        .unwrap();
    TlsAcceptor::from(Arc::new(server))
}

/// A site with the authority's certificate in `ca.pem`, and a login.
fn secured_site(port: u16, authority: &Authority, relay: &str) -> Site {
    let site = Site::new(port, &TenantFile::default());
    site.write("config/ca.pem", authority.pem.as_bytes());
    site.write("config/password", PASSWORD.as_bytes());
    site.tenant("acme", &TenantFile { relay, ..TenantFile::default() });
    site
}

const PASSWORD: &str = "correct-horse-7291";

#[test]
fn tls_is_used_where_the_relay_is_who_it_says_and_refused_everywhere_else() {
    const TRUST: &str = "ca_file = \"ca.pem\"";
    // Way, host in the configuration, name in the certificate, trust, whether it is sent.
    let table = [
        ("starttls", "127.0.0.1", "127.0.0.1", TRUST, true),
        ("starttls", "localhost", "localhost", TRUST, true),
        ("implicit", "127.0.0.1", "127.0.0.1", TRUST, true),
        ("starttls", "127.0.0.1", "127.0.0.1", "", false),
        ("implicit", "127.0.0.1", "127.0.0.1", "", false),
        ("starttls", "127.0.0.1", "relay.example.com", TRUST, false),
        ("implicit", "127.0.0.1", "localhost", TRUST, false),
        ("starttls", "localhost", "127.0.0.1", TRUST, false),
    ];
    for (way, host, certified, trust, sent) in table {
        let case = format!("{way} to {host}, certificate for {certified}, {trust}");
        let authority = authority(certified);
        let relay = Relay::with(Script {
            tls: Some(authority.acceptor.clone()),
            implicit: way == "implicit",
            login: Some(("u".to_owned(), PASSWORD.to_owned())),
            ..Script::default()
        });
        let lines = format!(
            "host = \"{host}\"\ntls = \"{way}\"\n{trust}\nuser = \"u\"\npassword = {{ file = \"password\" }}"
        );
        let site = secured_site(relay.port(), &authority, &lines);
        let file = site.session("call-1.json", &call(1, "7", 0));
        let ended = site.run(&["send", &file]);
        let attempt = site.attempts("call-1").remove(0);
        if sent {
            ended.with_code(0);
            assert!(attempt.tls.is_some(), "{case}");
            relay.only();
        } else {
            ended.with_code(75);
            assert_eq!((attempt.stage.as_deref(), attempt.tls), (Some("tls"), None), "{case}");
            assert!(attempt.answer.unwrap().contains("certificate"), "{case}");
            assert!(relay.received().is_empty(), "{case}");
        }
    }
}

#[test]
fn the_log_names_the_version_of_tls_as_people_write_it() {
    let authority = authority("127.0.0.1");
    let relay = Relay::with(Script { tls: Some(authority.acceptor.clone()), ..Script::default() });
    let lines = "host = \"127.0.0.1\"\ntls = \"starttls\"\nca_file = \"ca.pem\"";
    let site = secured_site(relay.port(), &authority, lines);
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    let tls = site.attempts("call-1").remove(0).tls.unwrap();
    assert!(tls.starts_with("TLSv1.3 "), "{tls}");
}

#[test]
fn without_starttls_nothing_is_said_but_hello() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let port = server(move |mut talk, _| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            hearing.lock().unwrap().push(line);
            talk.say("250-relay.example.com\r\n250 AUTH PLAIN LOGIN\r\n");
        }
    });
    let lines = "host = \"127.0.0.1\"\nuser = \"u\"\npassword = { file = \"password\" }";
    let site = secured_site(port, &authority("127.0.0.1"), lines);
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(75);
    let attempt = site.attempts("call-1").remove(0);
    assert_eq!(attempt.stage.as_deref(), Some("tls"));
    assert!(attempt.answer.unwrap().contains("does not offer STARTTLS"));
    assert_eq!(*heard.lock().unwrap(), ["EHLO acme.example.com"], "STARTTLS is the default");
}

#[test]
fn words_in_the_clear_behind_the_reply_to_starttls_end_the_connection() {
    for injected in ["\r\n250 injected", "\r\n250-injected\r\n250 AUTH PLAIN", "\r\n", "\r\n250"] {
        let authority = authority("127.0.0.1");
        let relay = Relay::with(Script {
            tls: Some(authority.acceptor.clone()),
            injected: injected.to_owned(),
            ..Script::default()
        });
        let lines = "host = \"127.0.0.1\"\ntls = \"starttls\"\nca_file = \"ca.pem\"";
        let site = secured_site(relay.port(), &authority, lines);
        let file = site.session("call-1.json", &call(1, "7", 0));
        site.run(&["send", &file]).with_code(75);
        let attempt = site.attempts("call-1").remove(0);
        assert_eq!(attempt.stage.as_deref(), Some("tls"), "{injected:?}");
        assert!(attempt.answer.as_deref().unwrap().contains("more than the reply"), "{attempt:?}");
        assert!(relay.received().is_empty(), "{injected:?}");
    }
}

#[test]
fn a_password_opens_the_relay_and_shows_up_nowhere() {
    let coded = STANDARD.encode(format!("\0u\0{PASSWORD}"));
    for (wanted, state, code) in [(PASSWORD, "accepted", 0), ("another", "deferred", 75)] {
        let relay =
            Relay::with(Script { login: Some(("u".to_owned(), wanted.to_owned())), ..Script::default() });
        let lines = format!("{PLAIN}\nuser = \"u\"\npassword = {{ file = \"password\" }}");
        let site = secured_site(relay.port(), &authority("127.0.0.1"), &lines);
        let file = site.session("call-1.json", &call(1, "7", 0));
        let ended = site.run(&["--log", "trace", "send", &file]).with_code(code);
        assert_eq!(site.states(), [state]);
        let attempt = site.attempts("call-1").remove(0);
        if code != 0 {
            assert_eq!((attempt.stage.as_deref(), attempt.code), (Some("auth"), Some(535)));
            assert!(attempt.answer.unwrap().contains("bad credentials"));
        }
        let told = site.run(&["log", "show", "call-1"]).with_code(0).out;
        let mut places = vec![ended.out.into_bytes(), ended.err.into_bytes(), told.into_bytes()];
        for file in std::fs::read_dir(site.path("config")).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("aftercall.sqlite") {
                places.push(std::fs::read(file.path()).unwrap());
            }
        }
        for secret in [PASSWORD, &coded, &STANDARD.encode(PASSWORD)] {
            let shows = |place: &Vec<u8>| place.windows(secret.len()).any(|at| at == secret.as_bytes());
            assert!(!places.iter().any(shows), "{secret} in case {state}");
        }
    }
}

#[test]
fn a_password_from_the_environment_that_is_not_there_is_told() {
    let lines = format!("{PLAIN}\nuser = \"u\"\npassword = {{ env = \"AFTERCALL_TEST_NO_SUCH_NAME\" }}");
    let site = Site::new(1, &TenantFile { relay: &lines, ..TenantFile::default() });
    let told = site.run(&["check"]).with_code(1).out;
    assert!(told.contains("relay.password.env") && told.contains("AFTERCALL_TEST_NO_SUCH_NAME"), "{told}");
}

#[test]
fn a_relay_that_does_not_speak_smtp_or_does_not_want_to_is_tried_again_later() {
    let table = [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "not SMTP"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "not SMTP"),
        ("\u{0}\u{1}\u{2}\r\n", "not SMTP"),
        ("554 5.3.2 no service here\r\n", "no service here"),
        ("421 4.3.2 too busy\r\n", "too busy"),
        ("220 ready\r\n250 and more\r\n", "more than the reply"),
        ("", "closed the connection"),
    ];
    for (greeting, words) in table {
        let port = server(move |mut talk, _| _ = talk.say(greeting));
        expect_deferred(port, &TenantFile::default(), "greeting", words);
    }
}

#[test]
fn a_relay_that_falls_silent_costs_bounded_time() {
    // The words up to which the relay answers, where it is then stuck, and what is known.
    let table = [
        ("", "greeting", "deferred"),
        ("EHLO", "hello", "deferred"),
        ("MAIL", "mail", "deferred"),
        ("RCPT", "rcpt", "deferred"),
        ("DATA", "data", "deferred"),
        (".", "message", "uncertain"),
    ];
    for (silent_at, stage, state) in table {
        let port = server(move |mut talk, _| {
            if silent_at.is_empty() {
                return talk.hear_out();
            }
            talk.say("220 ready\r\n");
            while let Some(line) = talk.hear() {
                if line.starts_with(silent_at) {
                    return talk.hear_out();
                }
                let reply = if line == "DATA" { "354 go on\r\n" } else { "250 ok\r\n" };
                // Lines of the message are not answered; the only one that could be taken for a command is the dot.
                let is_command = ["EHLO", "MAIL", "RCPT", "DATA"].iter().any(|verb| line.starts_with(verb));
                if is_command {
                    talk.say(reply);
                }
            }
        });
        let relay = format!("{PLAIN}\nreply_timeout = \"300ms\"\nmessage_timeout = \"300ms\"");
        let (site, ended) = send_one(port, &TenantFile { relay: &relay, ..TenantFile::default() });
        ended.with_code(75);
        let attempt = site.attempts("call-1").remove(0);
        assert_eq!((attempt.stage.as_deref(), attempt.code), (Some(stage), None), "{silent_at}");
        assert_eq!(site.states(), [state], "{silent_at}");
        assert!(attempt.answer.unwrap().contains("no answer"), "{silent_at}");
    }
}

#[test]
fn a_late_answer_is_never_taken_for_the_answer_to_the_next_message() {
    // The first connection hears a message and is silent until the client says anything more; then it answers.
    let reused = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&reused);
    let port = server(move |mut talk, connection| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            match line.split_whitespace().next().unwrap_or_default() {
                "DATA" => {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    if talk.hear().is_some_and(|line| line != "QUIT") {
                        told.store(true, Ordering::SeqCst);
                        talk.say("250 2.0.0 the first one is queued\r\n");
                    }
                }
                "RCPT" if connection > 1 => _ = talk.say("550 5.1.1 not the second one\r\n"),
                _ => _ = talk.say("250 ok\r\n"),
            }
        }
    });
    let relay = format!("{PLAIN}\nconnections = 1\nmessage_timeout = \"300ms\"");
    let retry = "on_uncertain = \"hold\"";
    let site = Site::new(port, &TenantFile { relay: &relay, retry, ..TenantFile::default() });
    for number in [1, 2] {
        site.session(&format!("drop/call-{number}.json"), &call(number, "7", 0));
    }
    site.run(&["send", "--all", "drop"]).with_code(1);
    assert!(!reused.load(Ordering::SeqCst), "a connection with an open answer was used again");
    let mut found: Vec<(&str, String)> =
        site.deliveries().into_iter().map(|row| (row.state.as_str(), row.reason)).collect();
    found.sort();
    assert_eq!((found[0].0, found[1].0), ("held", "rejected"), "{found:?}");
    assert!(
        found[0].1.contains("no answer in time") && found[1].1.contains("not the second one"),
        "{found:?}"
    );
}

#[test]
fn an_answer_that_nobody_asked_for_is_never_taken_for_the_answer_to_the_next_command() {
    // The relay answers the first message twice; the second answer must not be read as one to the next MAIL,
    // because every later answer would then be one too early, and a refusal would pass for an acceptance.
    let port = server(move |mut talk, connection| {
        talk.say("220 ready\r\n");
        let mut messages = 0;
        while let Some(line) = talk.hear() {
            match line.split_whitespace().next().unwrap_or_default() {
                "DATA" => {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    messages += 1;
                    talk.say(match (connection, messages) {
                        (1, 1) => "250 2.0.0 queued\r\n250 2.0.0 queued twice\r\n",
                        _ => "552 5.3.4 refused\r\n",
                    });
                }
                _ => _ = talk.say("250 ok\r\n"),
            }
        }
    });
    let relay = format!("{PLAIN}\nconnections = 1\nreply_timeout = \"2s\"\nmessage_timeout = \"2s\"");
    let retry = "first = \"20ms\"\nlongest = \"20ms\"\non_uncertain = \"hold\"";
    let site = Site::new(port, &TenantFile { relay: &relay, retry, ..TenantFile::default() });
    for number in [1, 2] {
        site.session(&format!("drop/call-{number}.json"), &call(number, "7", 0));
    }
    site.run(&["send", "--all", "drop"]);
    let mut states = site.states();
    states.sort_unstable();
    assert_eq!(states, ["accepted", "rejected"], "one was taken, one was refused: {:?}", site.deliveries());
}

/// A relay that takes everything, and answers the final dot of each message with `last`.
fn answers_the_message(last: &'static [u8]) -> u16 {
    server(move |mut talk, _| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            match line.split_whitespace().next().unwrap_or_default() {
                "DATA" => {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    talk.say_octets(last);
                }
                _ => _ = talk.say("250 ok\r\n"),
            }
        }
    })
}

#[test]
fn the_answer_to_a_message_decides_whatever_its_form() {
    let table: &[(&[u8], &str, i32)] = &[
        (b"250 2.0.0 queued\r\n", "accepted", 0),
        (b"250\r\n", "accepted", 0),
        (b"250 \r\n", "accepted", 0),
        (b"250-first\r\n250-\r\n250 last\r\n", "accepted", 0),
        (b"250 angenommen f\xc3\xbcr sp\xc3\xa4ter\r\n", "accepted", 0),
        (b"250 angenommen f\xfcr sp\xe4ter\r\n", "accepted", 0),
        (b"251 will forward\r\n", "accepted", 0),
        (b"421 4.3.2 closing\r\n", "deferred", 75),
        (b"451 4.3.0 later\r\n", "deferred", 75),
        (b"452 4.3.1 voll, sp\xe4ter\r\n", "deferred", 75),
        (b"552 5.3.4 too large\r\n", "rejected", 1),
        (b"554 5.7.1 nicht erw\xfcnscht\r\n", "rejected", 1),
        (b"354 go on\r\n", "uncertain", 75),
        (b"OK\r\n", "uncertain", 75),
        (b"\r\n", "uncertain", 75),
    ];
    let mut wrong = Vec::new();
    for (last, state, code) in table {
        let relay = format!("{PLAIN}\nmessage_timeout = \"2s\"");
        let (site, ended) =
            send_one(answers_the_message(last), &TenantFile { relay: &relay, ..TenantFile::default() });
        let row = site.deliveries().remove(0);
        if (row.state.as_str(), ended.code) != (*state, *code) {
            wrong.push(format!("{}: {} ({})", last.escape_ascii(), row.state, row.reason));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn control_characters_in_a_relays_words_reach_no_terminal() {
    let port = answers_the_message(b"550 \x1b[31mred\x07\x08 \xc2\x9b31m \x00end\r\n");
    let (site, ended) = send_one(port, &TenantFile::default());
    let told = site.run(&["log", "show", "call-1"]).with_code(0).out;
    let listed = site.run(&["log"]).with_code(0).out;
    for text in [&ended.out, &ended.err, &told, &listed] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
    assert!(told.contains("red") && told.contains("end"), "{told}");
}

#[test]
fn a_connection_that_the_relay_ends_between_two_mails_is_replaced() {
    // With 421 and with nothing; the first connection takes one mail, the next ones all.
    for farewell in ["", "421 4.4.2 idle for too long\r\n"] {
        let port = server(move |mut talk, connection| {
            talk.say("220 ready\r\n");
            while let Some(line) = talk.hear() {
                if line == "DATA" {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    talk.say("250 2.0.0 queued\r\n");
                    if connection == 1 {
                        talk.say(farewell);
                        return;
                    }
                } else {
                    talk.say("250 ok\r\n");
                }
            }
        });
        let relay = format!("{PLAIN}\nconnections = 1");
        let site = Site::new(port, &TenantFile { relay: &relay, ..TenantFile::default() });
        for number in 1..=3 {
            site.session(&format!("drop/call-{number}.json"), &call(number, "7", 0));
        }
        site.run(&["send", "--all", "drop"]).with_code(0);
        for row in site.deliveries() {
            assert_eq!((row.state.as_str(), row.attempts), ("accepted", 1), "{}", row.reason);
        }
    }
}

/// Heard by a relay that offers `keywords`: every command line, and how many octets came with each read.
fn heard_by_relay(keywords: &'static [&'static str], refuse: &'static str) -> (Vec<String>, Report) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let noting = Arc::clone(&lines);
    let port = server(move |mut talk, _| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            noting.lock().unwrap().push(line.clone());
            let verb = line.split_whitespace().next().unwrap_or_default();
            match verb {
                "EHLO" => {
                    for keyword in keywords {
                        talk.say(&format!("250-{keyword}\r\n"));
                    }
                    talk.say("250 HELP\r\n");
                }
                _ if !refuse.is_empty() && verb == refuse => _ = talk.say("550 5.7.1 not you\r\n"),
                "DATA" => {
                    talk.say("354 go on\r\n");
                    if talk.hear_message().is_some() {
                        talk.say("250 2.0.0 queued as 7\r\n");
                    }
                }
                _ => _ = talk.say("250 2.1.0 ok\r\n"),
            }
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let relay = config_of(port);
    let report = runtime.block_on(async {
        let connection = connect(&relay, &connector(None).unwrap(), None).await.unwrap();
        let envelope = Envelope {
            id: "c9-abc",
            from: "bridge+c9-abc@example.com",
            recipient: "crm+7=8@example.com",
            wire: b"A: b\r\n\r\ntext\r\n",
        };
        match connection.send(envelope).await {
            Sent::Ended(report, _) => report,
            Sent::Stale(report) => panic!("{report:?}"),
        }
    });
    let lines = lines.lock().unwrap().clone();
    (lines.into_iter().filter(|line| !line.starts_with("EHLO")).collect(), report)
}

#[test]
fn what_the_relay_offers_is_used_and_nothing_else() {
    let table: [(&'static [&'static str], &str, &str); 4] = [
        (&[], "MAIL FROM:<bridge+c9-abc@example.com>", "RCPT TO:<crm+7=8@example.com>"),
        (
            &["host", "PIPELINING", "size 0"],
            "MAIL FROM:<bridge+c9-abc@example.com> SIZE=14",
            "RCPT TO:<crm+7=8@example.com>",
        ),
        (
            &["host", "DSN", "SIZE 1000", "PIPELINING"],
            "MAIL FROM:<bridge+c9-abc@example.com> SIZE=14 RET=HDRS ENVID=c9-abc",
            "RCPT TO:<crm+7=8@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;crm+2B7+3D8@example.com",
        ),
        (
            &["host", "DSN"],
            "MAIL FROM:<bridge+c9-abc@example.com> RET=HDRS ENVID=c9-abc",
            "RCPT TO:<crm+7=8@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;crm+2B7+3D8@example.com",
        ),
    ];
    for (keywords, mail, rcpt) in table {
        let (lines, report) = heard_by_relay(keywords, "");
        assert_eq!(lines[..3], [mail, rcpt, "DATA"], "{keywords:?}");
        assert_eq!(report.outcome, Outcome::Accepted, "{keywords:?}: {report:?}");
        assert_eq!(report.enhanced.as_deref(), Some("2.0.0"));
        let replies = [
            "greeting: 220 ready",
            "mail: 250 2.1.0 ok",
            "rcpt: 250 2.1.0 ok",
            "data: 354 go on",
            "message: 250 2.0.0 queued as 7",
        ];
        let without_hello: Vec<&String> =
            report.replies.iter().filter(|reply| !reply.starts_with("hello")).collect();
        assert_eq!(without_hello, replies);
    }
}

#[test]
fn a_refused_envelope_sends_no_message_also_when_all_commands_went_at_once() {
    for (refuse, stage) in [("MAIL", "mail"), ("RCPT", "rcpt"), ("DATA", "data")] {
        for keywords in [&["host"] as &[&str], &["host", "PIPELINING"]] {
            let (lines, report) = heard_by_relay(keywords, refuse);
            assert_eq!((report.outcome, &*report.stage), (Outcome::Rejected, stage), "{keywords:?}");
            assert_eq!((report.code, report.enhanced.as_deref()), (Some(550), Some("5.7.1")));
            assert!(
                !lines.iter().any(|line| line.contains("text") || line == "."),
                "{keywords:?}: {lines:?}"
            );
        }
    }
}

#[test]
fn a_message_that_the_relay_cannot_take_is_refused_without_a_word_to_it() {
    let (lines, report) = heard_by_relay(&["host", "SIZE 10"], "");
    assert_eq!((report.outcome, &*report.stage), (Outcome::Rejected, "local"));
    assert!(report.text.contains("14 octets, and the relay takes 10"), "{}", report.text);
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn an_address_beyond_ascii_goes_to_a_relay_that_takes_it_and_is_refused_by_name_elsewhere() {
    let recipient = "address = \"jörg@crm.example.com\"";
    let tenant = || TenantFile { recipient, ..TenantFile::default() };
    let relay = Relay::with(Script {
        keywords: vec!["8BITMIME".to_owned(), "SMTPUTF8".to_owned()],
        ..Script::default()
    });
    send_one(relay.port(), &tenant()).1.with_code(0);
    let mail = relay.only();
    assert_eq!(mail.recipient, "jörg@crm.example.com");
    assert!(String::from_utf8(mail.message).unwrap().contains("To: jörg@crm.example.com\r\n"));
    let without = Relay::start();
    let (site, ended) = send_one(without.port(), &tenant());
    ended.with_code(1);
    let reason = &site.deliveries()[0].reason;
    assert!(reason.contains("5.6.7") && reason.contains("SMTPUTF8"), "{reason}");
    assert_eq!(without.received(), []);
}
