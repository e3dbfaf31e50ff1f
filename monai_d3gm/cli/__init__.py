"""The console command d3gm."""
