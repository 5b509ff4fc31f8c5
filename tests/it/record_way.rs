//! The way to a CRM: where requests may go, who the CRM is, and what they bring.

use std::net::{TcpListener, ToSocketAddrs};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aftercall::clock::Clock;
use aftercall::config::Config;
use aftercall::config::tenant::Overrides;
use aftercall::outbox::{Outcome, Report};
use aftercall::record::client::Client;
use aftercall::record::note::Note;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::{Answer, Crm};
use crate::smtp::authority;
use crate::support::{Site, TenantFile};

const SECRET: &str = "crm-secret-90125";
const KEY: &str = include_str!("../keys/rsa-pkcs8.pem");
/// A recipe of two steps; what the first captures stands in the path of the second.
const RECIPE: &str = r#"
title = "Test"
verified = "inferred"
ticket_ids = "one"
ticket_url = '/t/(?<id>[^/?#]+)'
[[steps]]
name = "look"
method = "GET"
path = "/look/{{id}}"
lookup = true
capture = { place = "/place" }
[[steps]]
name = "note"
method = "POST"
path = "/note/{{place}}"
json = { text = "{{note}}", again = "{{auth.secret}}" }
"#;

/// The configuration of a tenant with this section, or what is wrong with it.
fn config(record: &str) -> Result<(Site, Config), String> {
    let site = Site::new(1, &TenantFile { record, ..TenantFile::default() });
    site.write("config/recipes/test.toml", RECIPE.as_bytes());
    site.write("config/secret", SECRET.as_bytes());
    site.write("config/key", KEY.as_bytes());
    let config = Config::load(&site.path("config"), None, &Overrides::default());
    config.map(|config| (site, config)).map_err(|problems| problems.to_string())
}

fn section(base: &str, more: &str, login: &str) -> String {
    format!("recipe = \"test\"\nbase = \"{base}\"\n{more}\n[record.login]\n{login}")
}

const HEADER: &str = "kind = \"header\"\nvalue = \"Bearer {secret}\"\nsecret = { file = \"secret\" }";
const PRIVATE: &str = "allow_private = true";

fn note(ticket: &str) -> Note {
    Note {
        ticket: ticket.to_owned(),
        text: "Done.".to_owned(),
        external_id: "x1".to_owned(),
        ..Note::blank()
    }
}

async fn attach(record: &str, ticket: &str) -> Report {
    let (_site, config) = config(record).unwrap();
    let record = config.tenants["acme"].record.clone().unwrap();
    let client = Client::new(&record, Clock::fixed(Timestamp::UNIX_EPOCH)).unwrap();
    client.attach(&note(ticket), b"{}", "Acme", false).await.report
}

#[test]
fn a_place_where_secrets_could_be_read_is_refused_at_the_start() {
    let table = [
        ("https://crm.example.com", "", None),
        ("https://crm.example.com:8443/helpdesk/", "", None),
        ("http://127.0.0.1:8080", PRIVATE, None),
        ("http://127.0.0.1:8080", "", Some("needs allow_private = true")),
        ("http://crm.example.com", PRIVATE, Some("must begin with https://")),
        ("http://10.0.0.1", PRIVATE, Some("must begin with https://")),
        ("ftp://crm.example.com", PRIVATE, Some("must begin with https://")),
        ("https://user:pass@crm.example.com", "", Some("must not hold a user or a password")),
        ("https://crm.example.com/?a=b", "", Some("must not hold a query")),
        ("https://crm.example.com/#a", "", Some("must not hold a fragment")),
    ];
    for (base, more, problem) in table {
        match (config(&section(base, more, HEADER)), problem) {
            (Ok(_), None) => {}
            (Err(told), Some(problem)) => assert!(told.contains(problem), "{base}: {told}"),
            (other, _) => panic!("{base}: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn no_request_goes_to_an_address_that_is_not_allowed() {
    // Whoever connects here did so against the rules.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    // A name with private addresses only: whether the base is an address or a name makes no difference.
    assert!(("localhost", port).to_socket_addrs().unwrap().all(|address| address.ip().is_loopback()));
    let hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "169.254.169.254",
        "10.255.255.1",
        "[fd00:ec2::254]",
    ];
    for host in hosts {
        let report =
            attach(&section(&format!("https://{host}:{port}"), "connect_timeout = \"2s\"", HEADER), "7")
                .await;
        assert_eq!(
            (report.outcome, &*report.stage, report.code),
            (Outcome::Deferred, "look", None),
            "{host}"
        );
        assert!(report.text.contains("is not a public one"), "{host}: {}", report.text);
    }
    assert!(listener.accept().is_err(), "somebody connected");
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let elsewhere = Crm::start(|_, _| Answer::json(200, r#"{"place":"x"}"#));
    for status in [301, 302, 303, 307, 308] {
        let location = format!("location: {}/look/7\r\n", elsewhere.base());
        let crm = Crm::start(move |_, _| Answer::Say(status, location.clone(), String::new()));
        let report = attach(&section(&crm.base(), PRIVATE, HEADER), "7").await;
        assert_eq!((report.outcome, report.code), (Outcome::Deferred, Some(status)), "{}", report.text);
        assert_eq!((crm.lines().len(), elsewhere.lines().len()), (1, 0));
    }
}

#[tokio::test]
async fn no_ticket_and_no_answer_leads_a_request_elsewhere() {
    let table = [
        // The ticket and the answer's capture, and the second request's line; none where nothing is sent.
        ("7", "b", Some("POST /note/b")),
        ("7", "../../admin", Some("POST /note/..%2F..%2Fadmin")),
        ("7", "//evil.example.com/", Some("POST /note/%2F%2Fevil.example.com%2F")),
        ("7", "a?b=c#d&e", Some("POST /note/a%3Fb%3Dc%23d%26e")),
        ("7", "a\\r\\nX-Other: 1", Some("POST /note/a%0D%0AX-Other%3A%201")),
        ("7", "..", None),
        ("7", ".", None),
        ("7", "@evil.example.com", Some("POST /note/%40evil.example.com")),
    ];
    for (ticket, place, line) in table {
        let answer = format!("{{\"place\":\"{place}\"}}");
        let crm = Crm::start(move |_, _| Answer::json(200, &answer));
        let report = attach(&section(&crm.base(), PRIVATE, HEADER), ticket).await;
        assert_eq!(crm.lines().get(1).map(String::as_str), line, "{place}");
        assert_eq!(
            report.outcome,
            if line.is_some() { Outcome::Accepted } else { Outcome::Deferred },
            "{place}"
        );
        if line.is_none() {
            assert!(report.text.contains("leads elsewhere"), "{}", report.text);
        }
        assert!(crm.heard().iter().all(|heard| heard.header("host") == format!("127.0.0.1:{}", crm.port)));
    }
}

#[test]
fn an_id_is_only_taken_from_a_url_of_the_tenants_own_crm() {
    use aftercall::plan::{Mail, Target};
    use aftercall::template::Rendered;
    let (_site, config) =
        config(&section("https://crm.example.com", "ticket_hosts = [\"agents.example.com\"]", HEADER))
            .unwrap();
    let record = config.tenants["acme"].record.clone().unwrap();
    let table = [
        ("https://crm.example.com/t/12", Some("12")),
        ("https://agents.example.com/x/t/12?a=b", Some("12")),
        ("https://CRM.example.com/t/12", Some("12")),
        ("http://crm.example.com/t/12", None),
        ("https://crm.example.com.evil.example/t/12", None),
        ("https://evil.example/?https://crm.example.com/t/12", None),
        ("https://crm.example.com@evil.example/t/12", None),
        ("https://crm.example.com/other/12", None),
        ("not a url /t/12", None),
    ];
    for (url, id) in table {
        let mail = Mail {
            ticket: Some("7".to_owned()),
            ticket_url: Some(url.to_owned()),
            target: Target::Record,
            due: Timestamp::UNIX_EPOCH,
            waits_for: "",
            hold: None,
            supersedes: vec![],
            thread: vec![],
            follows: None,
        };
        let text = |text: &str| text.to_owned();
        let rendered =
            Rendered { language: text("en"), subject: text("s"), text: text("t"), html: text("h") };
        let note =
            Note::new(&record, text("e"), text("call-1"), text("f"), &mail, &rendered, Timestamp::UNIX_EPOCH);
        assert_eq!(note.url.get("id").map(String::as_str), id, "{url}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off_and_its_words_are_bounded() {
    let long = format!("{{\"place\":\"{}", "x".repeat(5_000_000));
    let crm = Crm::start(move |_, _| Answer::json(200, &long));
    let report = attach(&section(&crm.base(), PRIVATE, HEADER), "7").await;
    assert_eq!(report.outcome, Outcome::Deferred);
    assert!(report.text.contains("longer than"), "{}", report.text);
    let crm = Crm::start(|_, _| {
        Answer::json(422, &format!("\x1b[31m no\u{202e} {SECRET} {}", "y".repeat(100_000)))
    });
    let report = attach(&section(&crm.base(), PRIVATE, HEADER), "7").await;
    assert_eq!((report.outcome, report.code), (Outcome::Rejected, Some(422)));
    let is_tame = report.text.chars().count() < 400 && !report.text.contains(['\x1b', '\u{202e}']);
    assert!(is_tame && report.text.contains("(secret)") && !report.text.contains(SECRET), "{}", report.text);
}

#[tokio::test]
async fn a_crm_that_is_slow_or_silent_costs_its_time_and_no_more() {
    let crm = Crm::start(|_, _| Answer::Hold);
    let more = format!("{PRIVATE}\nanswer_timeout = \"200ms\"");
    let report = attach(&section(&crm.base(), &more, HEADER), "7").await;
    assert_eq!((report.outcome, report.code), (Outcome::Deferred, None), "{}", report.text);
    // Behind a request that has an effect nobody can tell.
    let crm =
        Crm::start(
            |heard, _| {
                if heard.method == "GET" { Answer::json(200, r#"{"place":"x"}"#) } else { Answer::Hold }
            },
        );
    let report = attach(&section(&crm.base(), &more, HEADER), "7").await;
    assert_eq!((report.outcome, &*report.stage), (Outcome::Uncertain, "note"), "{}", report.text);
}

#[tokio::test]
async fn a_crm_must_show_a_certificate_of_its_name() {
    for (name, outcome) in [("localhost", Outcome::Accepted), ("other.example.com", Outcome::Deferred)] {
        let authority = authority(name);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = authority.acceptor.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut heard = vec![0; 9000];
                while stream.read(&mut heard).await.is_ok_and(|length| length > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"place\":\"x\"}";
                    stream.write_all(answer).await.unwrap();
                }
            }
        });
        let more = format!("{PRIVATE}\nca_file = \"ca.pem\"");
        let record = section(&format!("https://localhost:{port}"), &more, HEADER);
        let site = Site::new(1, &TenantFile::default());
        site.write("config/recipes/test.toml", RECIPE.as_bytes());
        site.write("config/secret", SECRET.as_bytes());
        site.write("config/ca.pem", authority.pem.as_bytes());
        site.tenant("acme", &TenantFile { record: &record, ..TenantFile::default() });
        let config = Config::load(&site.path("config"), None, &Overrides::default()).unwrap();
        let record = config.tenants["acme"].record.clone().unwrap();
        let client = Client::new(&record, Clock::default()).unwrap();
        let report = client.attach(&note("7"), b"{}", "Acme", false).await.report;
        assert_eq!(report.outcome, outcome, "{name}: {}", report.text);
    }
}

#[tokio::test]
async fn each_login_brings_what_it_says() {
    let table = [
        (HEADER, "authorization", format!("Bearer {SECRET}"), ""),
        (
            "kind = \"header\"\nheader = \"X-Api-Key\"\nvalue = \"{secret}\"\nsecret = { file = \"secret\" }",
            "x-api-key",
            SECRET.to_owned(),
            "",
        ),
        (
            "kind = \"basic\"\nuser = \"u\"\npassword = { file = \"secret\" }",
            "authorization",
            "Basic dTpjcm0tc2VjcmV0LTkwMTI1".to_owned(),
            "",
        ),
        (
            "kind = \"key\"\nsecret = { file = \"secret\" }",
            "authorization",
            "Basic Y3JtLXNlY3JldC05MDEyNTpY".to_owned(),
            "",
        ),
        (
            "kind = \"body\"\nuser = \"u\"\nsecret = { file = \"secret\" }",
            "authorization",
            String::new(),
            SECRET,
        ),
    ];
    for (login, field, value, in_body) in table {
        let crm = Crm::start(|_, _| Answer::json(200, r#"{"place":"x"}"#));
        let report = attach(&section(&crm.base(), PRIVATE, login), "7").await;
        assert_eq!(report.outcome, Outcome::Accepted, "{login}: {}", report.text);
        for heard in crm.heard() {
            assert_eq!(heard.header(field), value, "{login}");
        }
        assert_eq!(crm.heard()[1].json()["again"], in_body, "{login}");
    }
    let wrong = [
        ("kind = \"header\"\nvalue = \"Bearer\"\nsecret = { file = \"secret\" }", "must hold {secret}"),
        ("kind = \"basic\"\nuser = \"u\"", "record.login.password: missing"),
        ("kind = \"password\"", "is not one of"),
        ("kind = \"key\"\nsecret = { file = \"secret\" }\nuser = \"u\"", "record.login.user: unknown key"),
        (
            "kind = \"oauth2\"\ntoken_url = \"https://l.example.com\"\nclient_id = \"c\"",
            "client_secret: missing",
        ),
        (
            "kind = \"oauth2\"\ntoken_url = \"http://l.example.com\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }",
            "must begin with https://",
        ),
    ];
    for (login, told) in wrong {
        let problems = config(&section("https://crm.example.com", "", login)).err().unwrap_or_default();
        assert!(problems.contains(told), "{login}: {problems}");
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    for (good_from, outcome, asked) in
        [(1, Outcome::Accepted, 1), (2, Outcome::Accepted, 2), (9, Outcome::Deferred, 2)]
    {
        let tokens = Arc::new(AtomicUsize::new(0));
        let fetched = Arc::clone(&tokens);
        let crm = Crm::start(move |heard, _| {
            if heard.path == "/token" {
                let number = fetched.fetch_add(1, Ordering::Relaxed) + 1;
                return Answer::json(
                    200,
                    &format!(r#"{{"access_token":"token-{number}-xyz","expires_in":3600}}"#),
                );
            }
            let number: usize = heard.header("authorization").split('-').nth(1).unwrap().parse().unwrap();
            if number < good_from {
                Answer::json(401, "token-1-xyz token-2-xyz")
            } else {
                Answer::json(200, r#"{"place":"x"}"#)
            }
        });
        let login = format!(
            "kind = \"oauth2\"\ntoken_url = \"{}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}",
            crm.base()
        );
        let report = attach(&section(&crm.base(), PRIVATE, &login), "7").await;
        assert_eq!((report.outcome, tokens.load(Ordering::Relaxed)), (outcome, asked), "{}", report.text);
        assert!(!format!("{report:?}").contains("-xyz"), "{report:?}");
    }
}

#[tokio::test]
async fn an_assertion_is_signed_by_the_clients_key() {
    let crm = Crm::start(|heard, _| match heard.path.as_str() {
        "/token" => Answer::json(200, r#"{"access_token":"t","token_type":"Bearer"}"#),
        _ => Answer::json(200, r#"{"place":"x"}"#),
    });
    let login = format!(
        "kind = \"jwt\"\ntoken_url = \"{}/token\"\nclient_id = \"app\"\nsubject = \"bridge@acme.example.com\"\n\
         audience = \"https://login.example.com\"\nkey = {{ file = \"key\" }}",
        crm.base()
    );
    let report = attach(&section(&crm.base(), PRIVATE, &login), "7").await;
    assert_eq!(report.outcome, Outcome::Accepted, "{}", report.text);
    let form = crm.heard()[0].text();
    assert!(form.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"), "{form}");
    let assertion = form.split("assertion=").nth(1).unwrap().split('&').next().unwrap();
    // Another implementation looks at it: the signature by the key's numbers (RFC 8017, section 8.2.2).
    let verify = r#"
import base64, hashlib, json, re, subprocess, sys
token, key = sys.argv[1:]
head, claims, signature = token.split(".")
raw = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
shown = subprocess.run(["openssl", "rsa", "-in", key, "-noout", "-modulus"], capture_output=True, check=True).stdout
modulus = int(shown.decode().split("=")[1], 16)
told = pow(int.from_bytes(raw(signature), "big"), 65537, modulus).to_bytes(256, "big")
digest = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256((head + "." + claims).encode()).digest()
assert told == b"\x00\x01" + b"\xff" * (253 - len(digest)) + b"\x00" + digest
print(json.dumps([json.loads(raw(head)), json.loads(raw(claims))], sort_keys=True))
"#;
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa-pkcs8.pem");
    let ended = Command::new("python3").args(["-c", verify, assertion, key]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(
        String::from_utf8_lossy(&ended.stdout).trim(),
        r#"[{"alg": "RS256", "typ": "JWT"}, {"aud": "https://login.example.com", "exp": 180, "iss": "app", "sub": "bridge@acme.example.com"}]"#
    );
}

#[test]
fn a_file_that_the_crm_does_not_take_is_refused_without_a_request() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let crm = Crm::start(|_, _| Answer::json(200, r#"{"place":"x"}"#));
    let site = Site::new(1, &TenantFile::default());
    site.write("config/recipes/test.toml", format!("file_bytes = 1000\n{RECIPE}").as_bytes());
    site.write("config/secret", SECRET.as_bytes());
    site.tenant(
        "acme",
        &TenantFile { record: &section(&crm.base(), PRIVATE, HEADER), ..TenantFile::default() },
    );
    let config = Config::load(&site.path("config"), None, &Overrides::default()).unwrap();
    let record = config.tenants["acme"].record.clone().unwrap();
    for (length, outcome, requests) in [(1000, Outcome::Accepted, 2), (1001, Outcome::Rejected, 0)] {
        let report = runtime.block_on(async {
            let client = Client::new(&record, Clock::default()).unwrap();
            client.attach(&note("7"), &vec![b' '; length], "Acme", false).await.report
        });
        assert_eq!((report.outcome, crm.take().len()), (outcome, requests), "{}", report.text);
    }
}
