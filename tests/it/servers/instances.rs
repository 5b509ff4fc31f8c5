//! Several instances of `serve` on one PostgreSQL.

use super::postgres::{ask, database};
use crate::arrivals::{Arrivals, UNCERTAIN};
use crate::support::{Relay, Serve, Site, TenantFile, call, until};
use aftercall::sink::Script;
use std::time::Duration;

#[test]
fn three_instances_that_are_killed_lose_nothing_and_double_nothing_without_a_mark() {
    const SESSIONS: usize = 300;
    let relay = Relay::with(Script { delay: Duration::from_millis(50), ..Script::default() });
    let store = database();
    let sites: Vec<Site> = (0..3).map(|_| Site::new(relay.port(), &TenantFile::default())).collect();
    for site in &sites {
        site.write("config/aftercall.toml", format!("[store]\nurl = \"{store}\"\n").as_bytes());
    }
    for number in 0..SESSIONS {
        let file = format!("inbox/acme/call-{number}.json");
        sites[number % sites.len()].session(&file, &call(number as u64 + 1, "7", 0));
    }
    let mut serving: Vec<Serve> = sites.iter().map(Site::serve).collect();
    for (kill, after) in [30, 80, 130, 180, 230].into_iter().enumerate() {
        until("mails before a kill", || (relay.received().len() >= after).then_some(()));
        let one = kill % sites.len();
        serving.remove(one).kill();
        serving.insert(one, sites[one].serve());
    }
    // What the killed ones held comes when their leases have run out.
    until("everything to be accepted", || {
        let accepted = ask(&store, "SELECT count(*) FROM deliveries WHERE state = 'accepted'");
        (accepted.trim() == SESSIONS.to_string()).then_some(())
    });
    let uncertain = ask(&store, UNCERTAIN).lines().map(str::to_owned).collect();
    let arrivals = Arrivals::count(&relay.received(), SESSIONS, &uncertain);
    assert!(arrivals.is_sound(), "{arrivals}");
    for serve in serving {
        assert_eq!(serve.terminate(), 0);
    }
}
