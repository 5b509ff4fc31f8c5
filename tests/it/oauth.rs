//! Access tokens: how often a token server is asked, what it may answer, and what a relay hears.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aftercall::clock::Clock;
use aftercall::config::oauth2::OAuth2;
use aftercall::config::secret::Secret;
use aftercall::config::tenant::{Login, Relay as RelayConfig, Tls};
use aftercall::deliver::auth::tokens;
use aftercall::deliver::connect::{Unusable, connect};
use aftercall::deliver::tls::connector;
use aftercall::oauth::Tokens;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::smtp::authority;
use crate::support::{PLAIN, Relay, Site, Talk, TenantFile, call, server};

const USER: &str = "bridge@acme.example.com";
const CLIENT_SECRET: &str = "client-secret-5521";
const REFRESH_TOKEN: &str = "refresh-token-8807";

/// The bodies of the requests that a token server has heard.
pub(crate) type Heard = Arc<Mutex<Vec<String>>>;

/// A token server: `answer` writes the whole answer to the request with this number, from 1.
pub(crate) fn token_server(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> (u16, Heard) {
    let heard = Heard::default();
    let hearing = Arc::clone(&heard);
    let port = server(move |mut talk, _| {
        let Some(body) = request(&mut talk) else { return };
        let number = {
            let mut heard = hearing.lock().unwrap();
            heard.push(body);
            heard.len()
        };
        talk.say(&answer(number));
    });
    (port, heard)
}

/// The body of one POST.
fn request(talk: &mut Talk) -> Option<String> {
    let first = talk.hear()?;
    assert!(first.starts_with("POST /token "), "{first}");
    let mut length = 0;
    loop {
        let line = talk.hear()?.to_ascii_lowercase();
        if line.is_empty() {
            return talk.hear_octets(length).map(|body| String::from_utf8(body).unwrap());
        }
        assert!(
            !line.starts_with("content-type:") || line.contains("application/x-www-form-urlencoded"),
            "{line}"
        );
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
    }
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// A token named after the number of its request, good for an hour.
pub(crate) fn token(number: usize) -> String {
    answer(
        "200 OK",
        &format!(r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":3600}}"#),
    )
}

fn oauth2(url: &str, refresh_token: Option<&str>) -> OAuth2 {
    OAuth2 {
        user: USER.to_owned(),
        token_url: url.parse().unwrap(),
        client_id: "client".to_owned(),
        client_secret: Some(Secret::new(CLIENT_SECRET.to_owned())),
        refresh_token: refresh_token.map(|token| Secret::new(token.to_owned())),
        scope: Some("https://relay.example.com/.default".to_owned()),
        assertion: None,
    }
}

/// A relay on loopback that takes the tokens of this client.
fn relay(port: u16, oauth2: OAuth2, ca_file: Option<&Path>) -> RelayConfig {
    RelayConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: Tls::None,
        ca_file: ca_file.map(Path::to_owned),
        login: Some(Login::OAuth2(oauth2)),
        connections: 1,
        hello: "client.example.com".to_owned(),
        reply_timeout: SignedDuration::from_secs(10),
        message_timeout: SignedDuration::from_secs(10),
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/token")
}

fn clock() -> Clock {
    Clock::fixed(Timestamp::UNIX_EPOCH)
}

fn tokens_at(url: &str, refresh_token: Option<&str>, clock: &Clock) -> Tokens {
    tokens(&relay(1, oauth2(url, refresh_token), None), clock.clone()).unwrap().unwrap()
}

/// The token, or why there is none.
async fn get(tokens: &Tokens) -> String {
    match tokens.get().await {
        Ok(token) => token.expose().to_owned(),
        Err(reason) => reason.to_string(),
    }
}

#[tokio::test]
async fn twenty_at_a_time_fetch_one_token() {
    for (status, wanted) in [("200 OK", "token-1"), ("503 Service Unavailable", "status 503")] {
        let (port, heard) = token_server(move |number| token(number).replace("200 OK", status));
        let tokens = tokens_at(&url(port), None, &clock());
        let mut running = JoinSet::new();
        for _ in 0..20 {
            let tokens = tokens.clone();
            running.spawn(async move { get(&tokens).await });
        }
        for found in running.join_all().await {
            assert!(found.ends_with(wanted), "{found}");
        }
        assert_eq!(heard.lock().unwrap().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn the_client_asks_as_the_grant_wants_it() {
    let (port, heard) = token_server(token);
    get(&tokens_at(&url(port), None, &clock())).await;
    get(&tokens_at(&url(port), Some(REFRESH_TOKEN), &clock())).await;
    let mut public = oauth2(&url(port), Some(REFRESH_TOKEN));
    (public.client_secret, public.scope) = (None, None);
    get(&tokens(&relay(1, public, None), clock()).unwrap().unwrap()).await;
    let scope = "scope=https%3A%2F%2Frelay.example.com%2F.default";
    assert_eq!(
        *heard.lock().unwrap(),
        [
            format!("client_id=client&grant_type=client_credentials&client_secret={CLIENT_SECRET}&{scope}"),
            format!(
                "client_id=client&grant_type=refresh_token&refresh_token={REFRESH_TOKEN}\
                 &client_secret={CLIENT_SECRET}&{scope}"
            ),
            format!("client_id=client&grant_type=refresh_token&refresh_token={REFRESH_TOKEN}"),
        ]
    );
}

#[tokio::test]
async fn a_token_is_renewed_early_and_used_to_its_end_when_that_fails() {
    let (port, heard) = token_server(|number| match number {
        2 | 3 => answer("500 Internal Server Error", "oops"),
        number => token(number),
    });
    let clock = clock();
    let tokens = tokens_at(&url(port), None, &clock);
    // The seconds that pass, what there is then, and how often the server was asked until then.
    let table = [
        (0, "token-1", 1),
        (3299, "token-1", 1),
        (1, "token-1", 2),
        (9, "token-1", 2),
        (291, "no access token from 127.0.0.1: status 500", 3),
        (9, "no access token from 127.0.0.1: status 500", 3),
        (1, "token-4", 4),
        (3299, "token-4", 4),
        (1, "token-5", 5),
    ];
    for (at, (step, wanted, asked)) in table.into_iter().enumerate() {
        clock.advance(SignedDuration::from_secs(step));
        assert_eq!(get(&tokens).await, wanted, "step {at}");
        assert_eq!(heard.lock().unwrap().len(), asked, "step {at}");
    }
}

#[tokio::test]
async fn a_refresh_token_that_is_replaced_is_the_one_used_next() {
    let (port, heard) = token_server(|number| {
        let rotated =
            if number < 3 { format!(r#","refresh_token":"rotated-{number}""#) } else { String::new() };
        answer("200 OK", &format!(r#"{{"access_token":"token-{number}","expires_in":60{rotated}}}"#))
    });
    let clock = clock();
    let tokens = tokens_at(&url(port), Some(REFRESH_TOKEN), &clock);
    for number in 1..=4 {
        assert_eq!(get(&tokens).await, format!("token-{number}"));
        clock.advance(SignedDuration::from_secs(50));
    }
    for (body, used) in
        heard.lock().unwrap().iter().zip([REFRESH_TOKEN, "rotated-1", "rotated-2", "rotated-2"])
    {
        assert!(body.contains(&format!("refresh_token={used}&")), "{body}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_bounded_printable_words_without_secrets() {
    let (long, secret) = ("x".repeat(5000), CLIENT_SECRET);
    let table = [
        (
            r#"{"error":"invalid_client","error_description":"unknown"}"#.to_owned(),
            "status 401, invalid_client: unknown",
        ),
        (
            format!(r#"{{"error":"a\u001b[31m\nb\u202e","error_description":"{secret} is wrong"}}"#),
            "status 401, a?[31m?b?: (secret) is wrong",
        ),
        (format!(r#"{{"error":"{long}"}}"#), &format!("status 401, {}", &long[..200])),
        (r#"{"error":7}"#.to_owned(), "status 401"),
        ("<html>".to_owned(), "status 401"),
    ];
    for (body, words) in table {
        let (port, _) = token_server(move |_| answer("401 Unauthorized", &body));
        let told = get(&tokens_at(&url(port), None, &clock())).await;
        assert_eq!(told, format!("no access token from 127.0.0.1: {words}"));
    }
}

#[tokio::test]
async fn an_answer_that_is_none_gives_no_token() {
    let endless = |talk: &mut Talk| {
        talk.say("HTTP/1.1 200 OK\r\n\r\n");
        while talk.say(&"x".repeat(1000)) {}
    };
    type Answer = fn(&mut Talk);
    let table: [(&str, Answer); 6] = [
        ("longer than 65536 octets", endless),
        ("the answer is not JSON", |talk| _ = talk.say("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")),
        ("status 302", |talk| {
            _ = talk.say("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
        }),
        ("error sending request", |talk| _ = talk.say("220 mail.example.com ESMTP\r\n")),
        ("error sending request", |_| {}),
        ("error", |talk| _ = talk.say("HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n{\"access_token\":")),
    ];
    for (words, answer) in table {
        let port = server(move |mut talk, _| {
            request(&mut talk);
            answer(&mut talk);
        });
        let told = get(&tokens_at(&url(port), None, &clock())).await;
        assert!(told.contains(words) && !told.contains("/token"), "{words}: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let port = server(|talk, _| talk.hear_out());
    let began = tokio::time::Instant::now();
    let told = get(&tokens_at(&url(port), None, &clock())).await;
    assert_eq!(told, "no access token from 127.0.0.1: no answer within 30 s");
    assert!(began.elapsed() < Duration::from_secs(31), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_server_must_be_who_it_says() {
    let folder = tempfile::tempdir().unwrap();
    // The name in the certificate, whether its authority is trusted, what comes of it.
    for (certified, trusted, sent) in
        [("127.0.0.1", true, true), ("127.0.0.1", false, false), ("login.example.com", true, false)]
    {
        let authority = authority(certified);
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = authority.acceptor.accept(tcp).await else { return String::new() };
            let mut heard = Vec::new();
            while !heard.ends_with(b".default") {
                if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                    return String::new();
                }
            }
            stream.write_all(token(1).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8(heard).unwrap()
        });
        let client = oauth2(&format!("https://127.0.0.1:{port}/token"), None);
        let tokens = tokens(&relay(1, client, trusted.then_some(&file)), clock()).unwrap().unwrap();
        let found = get(&tokens).await;
        let heard = serving.await.unwrap();
        assert_eq!(heard.contains(CLIENT_SECRET), sent, "{certified}, {trusted}: {found}");
        if sent {
            assert_eq!(found, "token-1");
        } else {
            assert!(found.contains("certificate"), "{found}");
        }
    }
}

/// The words of XOAUTH2 for a token.
fn words(token: &str) -> String {
    format!("user={USER}\u{1}auth=Bearer {token}\u{1}\u{1}")
}

/// A relay that takes one token, and refuses others with `refusal`: lines that it says one by one.
fn relay_for(wanted: &'static str, refusal: &'static [&'static str]) -> (u16, Heard) {
    let heard = Heard::default();
    let hearing = Arc::clone(&heard);
    let port = server(move |mut talk, _| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            match line.split_whitespace().next().unwrap_or_default() {
                "EHLO" => _ = talk.say("250-relay.example.com\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n"),
                "AUTH" => {
                    let coded = line.strip_prefix("AUTH XOAUTH2 ").unwrap_or_default();
                    let said = String::from_utf8(STANDARD.decode(coded).unwrap()).unwrap();
                    let is_wanted = said == words(wanted);
                    hearing.lock().unwrap().push(said);
                    if is_wanted {
                        talk.say("235 2.7.0 welcome\r\n");
                        continue;
                    }
                    for (at, reply) in refusal.iter().enumerate() {
                        if at > 0 {
                            hearing.lock().unwrap().push(talk.hear().unwrap());
                        }
                        talk.say(reply);
                    }
                }
                "DATA" => {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    talk.say("250 2.0.0 ok\r\n");
                }
                _ => _ = talk.say("250 2.0.0 ok\r\n"),
            }
        }
    });
    (port, heard)
}

async fn try_connect(relay: &RelayConfig, tokens: &Tokens) -> Result<(), Unusable> {
    connect(relay, &connector(None).unwrap(), Some(tokens)).await.map(drop)
}

#[tokio::test]
async fn a_refused_token_is_forgotten_and_the_next_attempt_brings_another() {
    const CHALLENGE: &str = "334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIn0=\r\n";
    // What the relay says to a token that it does not take, the code and words that are logged, the tokens it hears.
    let table: [(&[&str], u16, &str, usize); 4] = [
        (&[CHALLENGE, "535 5.7.8 no\r\n"], 535, r#"5.7.8 no {"status":"401","schemes":"bearer"}"#, 2),
        (&["535 5.7.3 no\r\n"], 535, "5.7.3 no", 2),
        (&["334 not base64 \u{1b}\r\n", "535 5.7.8 no\r\n"], 535, "5.7.8 no", 2),
        (&["454 4.7.0 later\r\n"], 454, "4.7.0 later", 1),
    ];
    for (refusal, code, text, fetched) in table {
        let (token_port, asked) = token_server(token);
        let (port, heard) = relay_for("token-2", refusal);
        let relay = relay(port, oauth2(&url(token_port), None), None);
        let tokens = tokens(&relay, clock()).unwrap().unwrap();
        let why = try_connect(&relay, &tokens).await.unwrap_err();
        assert_eq!((why.code, why.text.as_str()), (Some(code), text));
        assert_eq!(try_connect(&relay, &tokens).await.is_ok(), fetched == 2);
        assert_eq!(asked.lock().unwrap().len(), fetched, "{refusal:?}");
        let heard = heard.lock().unwrap();
        assert_eq!(heard[0], words("token-1"));
        if refusal.len() > 1 {
            assert_eq!(heard[1], "", "an empty line asks for the reply that decides");
        }
    }
}

#[tokio::test]
async fn a_relay_that_does_not_take_tokens_hears_none() {
    let (port, asked) = token_server(token);
    let hearing = Heard::default();
    let told = Arc::clone(&hearing);
    let smtp = server(move |mut talk, _| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            told.lock().unwrap().push(line);
            talk.say("250-relay.example.com\r\n250 AUTH PLAIN LOGIN\r\n");
        }
    });
    let relay = relay(smtp, oauth2(&url(port), None), None);
    let tokens = tokens(&relay, clock()).unwrap().unwrap();
    let why = try_connect(&relay, &tokens).await.unwrap_err();
    assert_eq!(why.to_string(), "auth: the relay does not offer AUTH XOAUTH2");
    assert_eq!(*hearing.lock().unwrap(), ["EHLO client.example.com"]);
    assert_eq!(asked.lock().unwrap().len(), 1);
}

/// A site whose tenant takes tokens from `port`.
fn site(smtp: u16, port: u16, more: &str) -> Site {
    let relay = format!(
        "{PLAIN}\nconnections = 20\noauth2 = {{ user = \"{USER}\", token_url = \"{}\", client_id = \"client\", \
         client_secret = {{ file = \"client-secret\" }}, refresh_token = {{ file = \"refresh-token\" }} }}\n{more}",
        url(port)
    );
    let site = Site::new(smtp, &TenantFile { relay: &relay, ..TenantFile::default() });
    site.write("config/client-secret", CLIENT_SECRET.as_bytes());
    site.write("config/refresh-token", REFRESH_TOKEN.as_bytes());
    site
}

#[test]
fn one_token_opens_all_connections_and_shows_up_nowhere() {
    let (port, asked) = token_server(token);
    let (smtp, heard) = relay_for("token-1", &["535 5.7.8 no\r\n"]);
    let site = site(smtp, port, "");
    site.run(&["check"]).with_code(0);
    assert!(asked.lock().unwrap().is_empty() && heard.lock().unwrap().is_empty(), "check asks nobody");
    for number in 1..=40 {
        site.session(&format!("drop/call-{number}.json"), &call(number, "7", 0));
    }
    let ended = site.run(&["--log", "trace", "send", "--all", "drop"]).with_code(0);
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert!(!heard.lock().unwrap().is_empty());
    let mut places = vec![ended.out.into_bytes(), ended.err.into_bytes()];
    for file in std::fs::read_dir(site.path("config")).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("aftercall.sqlite") {
            places.push(std::fs::read(file.path()).unwrap());
        }
    }
    for secret in ["token-1", CLIENT_SECRET, REFRESH_TOKEN, &STANDARD.encode(words("token-1"))] {
        let shows = |place: &Vec<u8>| place.windows(secret.len()).any(|at| at == secret.as_bytes());
        assert!(!places.iter().any(shows), "{secret}");
    }
}

#[test]
fn without_a_token_the_mail_waits_and_the_log_says_why() {
    let body = r#"{"error":"invalid_grant","error_description":"the refresh token has expired"}"#;
    let (port, _) = token_server(move |_| answer("400 Bad Request", body));
    let relay = Relay::start();
    let site = site(relay.port(), port, "");
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(75);
    let attempt = site.attempts("call-1").remove(0);
    assert_eq!((attempt.stage.as_deref(), attempt.code), (Some("auth"), None));
    let words = "no access token from 127.0.0.1: status 400, invalid_grant: the refresh token has expired";
    assert_eq!(attempt.answer.as_deref(), Some(words));
    assert_eq!((site.states(), relay.sink.connections()), (vec!["deferred"], 0));
}

#[test]
fn check_tells_what_is_wrong_with_oauth2() {
    let table = [
        (
            "user = \"u\"\npassword = { file = \"client-secret\" }\n",
            "{}",
            "give either user and password or oauth2",
        ),
        ("", "{ user = \"u\" }", "relay.oauth2.token_url: missing"),
        (
            "",
            "{ token_url = \"http://login.example.com/t\" }",
            "relay.oauth2.token_url: must begin with https://",
        ),
        ("", "{ token_url = \"login\" }", "relay.oauth2.token_url: relative URL"),
        (
            "",
            "{ user = \"u\", token_url = \"https://l.example.com\", client_id = \"c\" }",
            "client_secret: missing",
        ),
        ("", "{ user = \"a\\u0001b\" }", "relay.oauth2.user: must not be empty or hold control"),
        ("", "{ usr = \"u\" }", "relay.oauth2.usr: unknown key; did you mean \"user\"?"),
        ("", "3", "relay.oauth2: must be a table, not integer"),
    ];
    for (login, oauth2, words) in table {
        let relay = format!("{PLAIN}\n{login}oauth2 = {oauth2}");
        let site = Site::new(25, &TenantFile { relay: &relay, ..TenantFile::default() });
        site.write("config/client-secret", b"secret");
        let told = site.run(&["check"]).with_code(1).out;
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
}
