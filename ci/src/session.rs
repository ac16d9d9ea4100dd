//! A typical session: files, plans, changes, a mistake that is undone, and a crash.
//!
//! The names, outcomes and reasons in the output are checked, but not its layout.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{GUEST, definition, minimal_guest};
use crate::host::Host;

/// The checks, in this order; each continues where the one before it ended.
const CHECKS: &[Check] = &[
    Check { name: "apply", run: apply },
    Check { name: "change", run: change },
    Check { name: "undo", run: undo },
    Check { name: "stale-plan", run: stale_plan },
    Check { name: "crash", run: crash },
    Check { name: "paused", run: paused },
    Check { name: "console", run: console },
    Check { name: "ways-out", run: ways_out },
    Check { name: "end", run: end },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The time limit of a command.
const LIMIT: Duration = Duration::from_secs(60);
/// The path of the definitions.
const SHOP: &str = "/root/shop.toml";

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions { memory: "1G".into(), ..MachineOptions::default() };
    boots::run_wanted(&Boot { name: "session", machine, boot: options, checks: CHECKS }, results);
}

fn options() -> Result<BootOptions> {
    Ok(BootOptions { file: vec![minimal_guest()?], ..BootOptions::default() })
}

/// Runs `uvtool`; returns its status and its whole output.
fn uvtool(host: &mut Host, words: &str) -> Result<(i32, String)> {
    let line = format!("uvtool {words}");
    let output = host.run(&["sh", "-c", &line], b"", LIMIT)?;
    Ok((output.status, output.stdout + &output.stderr))
}

/// Runs `uvtool`, which must succeed and print all of these texts.
fn says(host: &mut Host, words: &str, all: &[&str]) -> Result<String> {
    let (status, text) = uvtool(host, words)?;
    ensure!(status == 0, "`uvtool {words}` ended with status {status}: {text}");
    has(words, &text, all)?;
    Ok(text)
}

/// Runs `uvtool`, which must refuse and print all of these texts.
fn refuses(host: &mut Host, words: &str, all: &[&str]) -> Result<()> {
    let (status, text) = uvtool(host, words)?;
    ensure!(status == 1, "`uvtool {words}` ended with status {status}: {text}");
    has(words, &text, all)
}

fn has(words: &str, text: &str, all: &[&str]) -> Result<()> {
    for one in all {
        ensure!(text.contains(one), "`uvtool {words}` does not say {one:?}: {text}");
    }
    Ok(())
}

/// Runs `uvtool` and returns its JSON.
fn json(host: &mut Host, words: &str) -> Result<Value> {
    let text = says(host, &format!("{words} --json"), &[])?;
    serde_json::from_str(&text).with_context(|| format!("uvtool {words} --json: {text}"))
}

/// A field of the row with this name.
fn field(rows: &Value, name: &str, pointer: &str) -> Result<Value> {
    let rows = rows.as_array().context("no rows")?;
    let named = |row: &&Value| row["name"] == name || row["definition"]["name"] == name;
    let row = rows.iter().find(named).with_context(|| format!("no row of {name}: {rows:?}"))?;
    Ok(row.pointer(pointer).cloned().unwrap_or_default())
}

/// Writes definitions of idle guests, each with additional lines.
fn write(host: &mut Host, partitions: &[(&str, &str)]) -> Result<()> {
    let one = |(name, more): &(&str, &str)| format!("{}{more}\n", definition(name, "idle"));
    let text: String = partitions.iter().map(one).collect();
    host.sh(&format!("cat > {SHOP} <<'END'\n{text}END")).map(drop)
}

/// Checks that a plan shows what an apply then does.
fn apply(host: &mut Host) -> Result<()> {
    write(host, &[("web", ""), ("db", "")])?;
    let plan = says(host, &format!("plan {SHOP}"), &["+ web", "+ db", "2 to create"])?;
    let list = says(host, "list", &[])?;
    ensure!(!list.contains("web"), "a plan changed something: {plan}{list}");
    says(host, &format!("apply {SHOP}"), &["+ web", "+ db", "2 to create"])?;
    says(host, &format!("plan {SHOP}"), &["0 to create, 0 to change", "2 as they should be"])?;
    let list = json(host, "list")?;
    for name in ["web", "db"] {
        ensure!(field(&list, name, "/state")? == "running", "{name} does not run: {list}");
    }
    Ok(())
}

/// Checks that a plan for a changed file shows only the change, and that names and shares change
/// while the guests run.
fn change(host: &mut Host) -> Result<()> {
    write(host, &[("web", ""), ("db", "[partition.cpu]\nweight = 512"), ("cache", "")])?;
    let change = ["+ cache", "~ db", "cpu.weight: 256 -> 512", "1 as they should be"];
    let plan = says(host, &format!("plan {SHOP}"), &change)?;
    ensure!(!plan.contains("web"), "the plan changes nothing of web: {plan}");
    says(host, &format!("apply {SHOP}"), &change)?;
    says(host, "rename web www", &[])?;
    says(host, "set www --weight 1024 --cap 50", &[])?;
    says(host, "info www", &["1024", "50"])?;
    let why = ["create \"web\"", "rename \"web\"", "set www"];
    says(host, "why www", &why)?;
    says(host, "log -n 2", &["rename web to www", "set www", "committed"])?;
    refuses(host, "rename www db", &["\"www\"", "name", "db"])?;
    says(host, "set command --weight 4096", &[])?;
    refuses(host, "set command --memory 64M", &["\"command\"", "memory", "not defined here"])
}

/// Sequence number of the newest record whose reason contains `reason`.
fn record(host: &mut Host, reason: &str) -> Result<u64> {
    let log = json(host, "log")?;
    let mut rows = log.as_array().context("no records")?.iter().rev();
    let found = rows.find(|row| row["reason"].as_str().is_some_and(|text| text.contains(reason)));
    let found = found.with_context(|| format!("no record with {reason:?}: {log}"))?;
    found["sequence"].as_u64().context("a record without a number")
}

/// Checks that a mistake is undone, in the definition as well, and that a record can be undone only
/// once.
fn undo(host: &mut Host) -> Result<()> {
    let set = record(host, "set www")?;
    says(host, &format!("undo {set} --reason 'a mistake'"), &["is undone"])?;
    says(host, "info www", &["256"])?;
    let definitions = json(host, "definitions")?;
    ensure!(field(&definitions, "www", "/definition/cpu/weight")? == 256, "{definitions}");
    let again = [&*format!("record {set}"), "cpu_weight", "1024", "256", "since then"];
    refuses(host, &format!("undo {set}"), &again)?;
    let rename = record(host, "rename web")?;
    says(host, &format!("undo {rename}"), &["is undone"])?;
    says(host, "console --once web", &[])?;
    says(host, &format!("plan {SHOP}"), &["3 as they should be"])?;
    refuses(host, "undo 0", &["record 0"])
}

/// Checks that an apply does what its plan showed, or nothing.
fn stale_plan(host: &mut Host) -> Result<()> {
    write(host, &[("web", ""), ("db", ""), ("cache", "")])?;
    let version = json(host, &format!("plan {SHOP}"))?["version"].as_u64().context("no version")?;
    says(host, "set cache --weight 128", &[])?;
    let stale = [&*format!("planned at {version}"), "uvtool log", "plan again"];
    refuses(host, &format!("apply --at {version} {SHOP}"), &stale)?;
    let definitions = json(host, "definitions")?;
    ensure!(field(&definitions, "db", "/definition/cpu/weight")? == 512, "{definitions}");
    let version = json(host, &format!("plan {SHOP}"))?["version"].as_u64().context("no version")?;
    says(host, &format!("apply --at {version} {SHOP}"), &["~ db", "512 -> 256", "~ cache"])
        .map(drop)
}

/// Checks that the crash of a guest is reported, to a user who watches it and afterwards.
fn crash(host: &mut Host) -> Result<()> {
    let create = format!("create --name test --kernel {GUEST} --memory 4M --command-line crash");
    let (status, text) = uvtool(host, &format!("{create} --console"))?;
    ensure!(status == 3, "a guest that crashes ended with status {status}: {text}");
    has("create --console", &text, &["panic at ", "the partition crashed"])?;
    let list = says(host, "list", &[])?;
    ensure!(!list.contains("test"), "its policy does not destroy the guest: {list}");
    says(host, "definitions", &["test", "crashed"])?;
    says(host, "why test", &["create test", "monitor", "crashed", "policy: destroy test"])?;
    says(host, "destroy --forget test", &[])?;
    refuses(host, "destroy test", &["\"test\"", "no such partition", "web"])
}

/// Checks that a partition that is created paused has not run, and runs once it is unpaused.
fn paused(host: &mut Host) -> Result<()> {
    let create = format!("create --name later --kernel {GUEST} --memory 4M --command-line hello");
    says(host, &format!("{create} --paused"), &["later"])?;
    says(host, "wait later --until paused --timeout 10", &["paused"])?;
    let console = says(host, "console --once later", &[])?;
    ensure!(console.is_empty(), "the paused guest ran: {console}");
    refuses(host, "pause later", &["it is paused"])?;
    says(host, "unpause later", &[])?;
    says(host, "wait later --timeout 30", &["powered off"])?;
    says(host, "console --once later", &["hello from a minimal guest"]).map(drop)
}

/// Checks that all typed input arrives, and that a user gets a message when the guest does not read
/// the input.
fn console(host: &mut Host) -> Result<()> {
    let create = |name: &str, program: &str| {
        format!("create --name {name} --kernel {GUEST} --memory 4M --command-line {program}")
    };
    says(host, &create("talk", "echo"), &[])?;
    host.sh("printf 'before the key\\n\\035after' | uvtool console talk")?;
    host.sh("uvtool console --follow talk | grep -q -m 1 '^before the key'")?;
    host.sh("(seq 300 | sed 's,.*,line & of them,'; echo quit) | uvtool console talk")?;
    let all = host.sh("uvtool console --once talk")?;
    let lines: Vec<&str> = all.lines().filter(|line| line.starts_with("line ")).collect();
    let expected: Vec<String> = (1..=300).map(|n| format!("line {n} of them")).collect();
    ensure!(lines == expected, "the guest got other text than was typed: {all}");
    ensure!(!all.contains("after"), "text after the key was typed: {all}");
    // The console shows the output of this partition, and not of the one before.
    let text = says(host, &format!("{} --console", create("talk", "hello")), &["hello from"])?;
    ensure!(!text.contains("line "), "the output of an earlier partition: {text}");
    says(host, &create("deaf", "idle"), &[])?;
    let deaf = host.run(&["sh", "-c", "seq 2000 | uvtool console deaf --timeout 3"], b"", LIMIT)?;
    ensure!(deaf.status == 124, "time was up with status {}: {}", deaf.status, deaf.stderr);
    has("console deaf", &deaf.stderr, &["may not be read", "--timeout"])?;
    let wait = uvtool(host, "wait deaf --timeout 1")?;
    ensure!(wait.0 == 124 && wait.1.contains("has not stopped after"), "{wait:?}");
    // The time limit holds for every wait: here for a file that nobody writes.
    host.sh("mkfifo /root/pipe.toml")?;
    let endless = uvtool(host, "plan --timeout 1 /root/pipe.toml")?;
    ensure!(endless.0 == 124 && endless.1.contains("--timeout"), "{endless:?}");
    says(host, "destroy --forget deaf", &[])?;
    says(host, "destroy --forget talk", &[]).map(drop)
}

/// Runs `uvtool`, which must refuse, and then the command that the refusal names as the way out.
fn takes_the_way_out(host: &mut Host, words: &str) -> Result<()> {
    let (status, text) = uvtool(host, words)?;
    ensure!(status == 1, "`uvtool {words}` ended with status {status}: {text}");
    let (_, rest) = text.split_once("`uvtool ").with_context(|| format!("no way out: {text}"))?;
    let (way_out, _) = rest.split_once('`').context("a command without an end")?;
    says(host, way_out, &[]).with_context(|| format!("of {text}")).map(drop)
}

/// Checks that the way out in a refusal works, also for a name that a shell would split.
fn ways_out(host: &mut Host) -> Result<()> {
    let create = format!("create --name 'my guest' --kernel {GUEST} --memory 4M");
    says(host, &format!("{create} --command-line idle --paused"), &[])?;
    takes_the_way_out(host, "pause 'my guest'")?;
    takes_the_way_out(host, "unpause 'my guest'")?;
    takes_the_way_out(host, "set 'my guest' --memory 64M")?;
    takes_the_way_out(host, "pause 'my guest'")?;
    takes_the_way_out(host, &create)?;
    takes_the_way_out(host, "destroy 'my guest'")?;
    refuses(host, "destroy 'my guest'", &["no such partition"])?;
    let (status, text) = uvtool(host, &format!("{create} --vcpus 99"))?;
    ensure!(status == 2, "{status}: {text}");
    has("create", &text, &["--vcpus: 99 is more than 32"])
}

/// Checks that an apply destroys a partition that was removed from the file, and that the host is
/// as before.
fn end(host: &mut Host) -> Result<()> {
    write(host, &[("db", "")])?;
    refuses(host, &format!("apply --prune {SHOP}"), &["would destroy", "web", "cache", "--yes"])?;
    let gone = ["- web", "- cache", "2 to destroy"];
    says(host, &format!("apply --prune --yes {SHOP}"), &gone)?;
    says(host, "destroy --forget db", &[])?;
    let list = json(host, "list")?;
    let guest = |row: &Value| row["kind"] == "guest";
    ensure!(!list.as_array().context("no rows")?.iter().any(guest), "{list}");
    Ok(())
}
