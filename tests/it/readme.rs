//! The README's commands do what it says.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aftercall::sink::{Script, Sink};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn readme() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

#[test]
fn the_first_command_is_near_the_top_and_shows_the_main_job() {
    let at = readme().lines().position(|line| line == "cargo run --release -- demo").unwrap();
    assert!(at < 20, "it stands in line {}", at + 1);
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let demo = Command::new(env!("CARGO_BIN_EXE_aftercall"))
        .args(["demo", "--folder"])
        .arg(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8(demo.stdout).unwrap();
    assert!(demo.status.success(), "{told}");
    for line in readme().lines().filter(|line| line.contains(" sessions taken, ")) {
        assert!(told.contains(line), "{line} is not in\n{told}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "an unoptimised build took {:?}", began.elapsed());
    assert_eq!(std::fs::read_dir(folder.path().join("mails")).unwrap().count(), 8);
}

#[test]
fn every_command_of_the_table_runs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sink = runtime.block_on(Sink::start(Script::default())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sample = Path::new(ROOT).join("config/samples/call-50112.json");
    std::fs::create_dir(folder.path().join("all")).unwrap();
    std::fs::copy(
        Path::new(ROOT).join("config/samples/chat-7301.json"),
        folder.path().join("all/chat-7301.json"),
    )
    .unwrap();
    let rows = readme();
    let commands = rows.lines().filter_map(|line| line.strip_prefix("| `aftercall ")?.split('`').next());
    let commands: Vec<&str> = commands.filter(|command| *command != "serve").collect();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let words = command.split(' ').map(|word| match word {
            "FILE" | "FILE..." => sample.clone(),
            "DIR" => folder.path().join("all"),
            word => word.into(),
        });
        let output = Command::new(env!("CARGO_BIN_EXE_aftercall"))
            .current_dir(ROOT)
            .args(words)
            .arg("--store")
            .arg(folder.path().join("store.sqlite"))
            .args(["--relay", &format!("smtp://{}", sink.address())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(sink.received().len(), 2);
}
