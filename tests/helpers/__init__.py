"""What several tests share: data made by hand, commands run as a person would, stand-ins for servers."""
