//! What the manual says of the tests is so: each test that its page of known failures names is there.

use std::fs;
use std::path::Path;

#[test]
fn the_tests_that_known_failures_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = root.join("softhsm-tests/tests");
    let page = fs::read_to_string(root.join("src/manual/known_failures.md")).unwrap();
    let mut code = String::new();
    for entry in fs::read_dir(&tests).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            code += &fs::read_to_string(path).unwrap();
        }
    }
    let mut named = 0;
    let rows = page.lines().filter(|line| line.starts_with("| "));
    for shown_by in rows.filter_map(|row| row.trim_end_matches(" |").rsplit('|').next()) {
        for name in shown_by.split('`').skip(1).step_by(2) {
            let is_test = code.contains(&format!("fn {name}("));
            let is_program = tests.join(name).with_extension("rs").exists();
            let is_code = root.join(name).exists();
            // What a test has the module do.
            let is_order = matches!(name, "other" | "logout");
            assert!(is_test || is_program || is_code || is_order, "{name}");
            named += 1;
        }
    }
    assert!(named > 40, "{named}");
}
