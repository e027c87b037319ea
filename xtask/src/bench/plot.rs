//! A line plot as SVG: a few series over an axis that grows tenfold a step.

use std::fmt::Write as _;

/// Pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 45.0;
/// Told apart by those who see no colours as well: <https://jfly.uni-koeln.de/color/> (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A line of the plot.
pub struct Series {
    /// What it shows.
    pub name: &'static str,
    /// The curve's points, the first number greater than 0.
    pub points: Vec<(f64, f64)>,
}

/// The plot; `x` and `y`: what the axes show.
pub fn svg(title: &str, x: &str, y: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| series.points.iter().copied());
    let decades = points().map(|(x, _)| x.log10()).fold(0.0, f64::max).max(1.0);
    let (step, top) = scale(points().map(|(_, y)| y).fold(0.0, f64::max));
    let at_x = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * x.max(1.0).log10() / decades;
    let at_y = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, colour: &str, words: &str| {
        let _ =
            writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>");
    };
    text(LEFT, 18.0, "start", "black", title);
    text(WIDTH - RIGHT, HEIGHT - 8.0, "end", "black", x);
    text(LEFT - 8.0, TOP - 10.0, "end", "black", y);
    for (index, series) in series.iter().enumerate() {
        text(LEFT + 20.0 + 190.0 * index as f64, TOP - 12.0, "start", COLOURS[index % COLOURS.len()], series.name);
    }
    let mut lines = String::new();
    for decade in 0..=decades.ceil() as i32 {
        let value = 10_f64.powi(decade);
        text(at_x(value), HEIGHT - BOTTOM + 18.0, "middle", "black", &grouped(value as u64));
    }
    for tick in 0..=(top / step).round() as u32 {
        let value = f64::from(tick) * step;
        text(LEFT - 8.0, at_y(value) + 4.0, "end", "black", &grouped(value as u64));
        let (y, right) = (at_y(value), WIDTH - RIGHT);
        let _ = writeln!(lines, "<path d=\"M{LEFT:.0} {y:.1}H{right:.0}\" stroke=\"#ddd\"/>");
    }
    for (index, series) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let place = |&(x, y): &(f64, f64)| format!("{:.1},{:.1}", at_x(x), at_y(y));
        let places: Vec<String> = series.points.iter().map(place).collect();
        let path = places.join(" ");
        let _ = writeln!(lines, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        for (x, y) in &series.points {
            let _ =
                writeln!(lines, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", at_x(*x), at_y(*y));
        }
    }
    svg + &lines + "</svg>\n"
}

/// A round step of the axis, and its end: four to ten steps.
fn scale(most: f64) -> (f64, f64) {
    let decade = 10_f64.powf((most.max(1.0) / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|n| n * decade).filter(|step| most / step >= 4.0).fold(decade, f64::max);
    (step, (most.max(1.0) / step).ceil() * step)
}

/// A whole number with commas.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn scales_are_round_and_reach_the_top() {
        assert_eq!(scale(907.5), (200.0, 1000.0));
        assert_eq!(scale(1387.0), (200.0, 1400.0));
        assert_eq!(scale(40.0), (10.0, 40.0));
        let (step, top) = scale(0.0);
        assert!(step > 0.0 && top > 0.0);
    }

    #[test]
    fn a_plot_has_a_line_for_each_series() {
        let series = |name| Series { name, points: vec![(1.0, 5.0), (1000.0, 10.0)] };
        let svg = svg("t", "x", "y", &[series("a"), series("b")]);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 4));
        assert!(svg.ends_with("</svg>\n"));
    }
}
