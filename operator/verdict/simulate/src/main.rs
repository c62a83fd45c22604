//! Prints a figure: `perwatt-simulate canary-validity 10000`.

use perwatt_simulate::{power, validity};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let rollouts = arguments.next().and_then(|count| count.parse().ok());
    let rows = match name.as_str() {
        "canary-validity" => validity::measure(rollouts.unwrap_or(validity::ROLLOUTS)),
        "canary-power" => power::measure(rollouts.unwrap_or(power::ROLLOUTS)),
        _ => {
            eprintln!("usage: perwatt-simulate canary-validity|canary-power [ROLLOUTS]");
            std::process::exit(2);
        }
    };
    for row in rows {
        print!("{:>12.2} {:<9} {}", row.value, row.unit, row.name);
        if let Some((what, value)) = &row.beside {
            print!(" | {what}: {value:.2}, ratio {:.2}", row.value / value);
        }
        println!(" | {} rollouts", row.rollouts);
    }
}
